/**
 * The certificates of a box: an authority of its own, a server's pair for PgBouncer and QUIC, a client's pair for subscribers.
 * Runs at boot, before anything reads the files. A pair that does not match (a crash between the two renames), is not of our
 * authority, lacks a name or comes near its end is made anew; the authority itself is never replaced, since subscribers trust it.
 */
import { createPrivateKey, randomBytes, X509Certificate } from 'node:crypto'
import { isIP } from 'node:net'
import { BeyondError } from '../errors.ts'
import { type Owner, readIfThere, writeFileAtomic } from './atomic-file.ts'
import type { CertificateKind, CertificateRequest, KeyAndCertificate } from './certificate.ts'

const DAY_MS = 86_400_000
const AUTHORITY_DAYS = 3653
const LEAF_DAYS = 397
const RENEW_BEFORE_DAYS = 30
// Clocks of subscribers may be a little behind ours.
const BACKDATE_MS = 3_600_000

export type TlsPaths = {
  readonly ca: string
  readonly caKey: string
  readonly serverCertificate: string
  readonly serverKey: string
  readonly clientCertificate: string
  readonly clientKey: string
}

export type TlsOptions = {
  readonly paths: TlsPaths
  /** DNS names and addresses under which the box is reached. */
  readonly serverNames: readonly string[]
  /** Who must be able to read the server's key; undefined for ourselves. */
  readonly serverOwner: Owner | undefined
  readonly now: Date
}

/** What `ensureTlsFiles` would make. Reads only. */
export function tlsFilesToMake({ paths, serverNames, now }: TlsOptions): readonly string[] {
  if (readIfThere(paths.ca) === undefined) return ['authority', 'server', 'client']
  const ca = readCertificate(paths.ca)
  const server = reasonToRenew(readIfThere(paths.serverCertificate), readIfThere(paths.serverKey), ca, serverNames, now)
  const client = reasonToRenew(readIfThere(paths.clientCertificate), readIfThere(paths.clientKey), ca, [], now)
  return [...(server === undefined ? [] : ['server']), ...(client === undefined ? [] : ['client'])]
}

/** Makes what is missing or must be renewed; returns the names of what was made. */
export async function ensureTlsFiles({ paths, serverNames, serverOwner, now }: TlsOptions): Promise<readonly string[]> {
  const made: string[] = []
  if (readIfThere(paths.ca) === undefined) {
    const commonName = `beyond-pg ${now.toISOString().slice(0, 10)} ${randomBytes(4).toString('hex')}`
    const authority = await makeCertificate({ kind: 'authority', commonName, ...validity(now, AUTHORITY_DAYS) })
    // The certificate comes last: without it no authority has ever been shown to anybody.
    writeFileAtomic(paths.caKey, authority.key, { mode: 0o600 })
    writeFileAtomic(paths.ca, authority.certificate, { mode: 0o644 })
    made.push('authority')
  }
  const ca = readCertificate(paths.ca)
  const leaves = [
    { kind: 'server', key: paths.serverKey, certificate: paths.serverCertificate, names: serverNames, owner: serverOwner },
    { kind: 'client', key: paths.clientKey, certificate: paths.clientCertificate, names: [], owner: undefined },
  ] as const
  for (const leaf of leaves) {
    const reason = reasonToRenew(readIfThere(leaf.certificate), readIfThere(leaf.key), ca, leaf.names, now)
    if (reason !== undefined) {
      const issuer = { key: authorityKey(paths, ca, leaf.kind, reason), commonName: commonNameOf(ca) }
      const request = { kind: leaf.kind, commonName: leaf.kind === 'server' ? 'localhost' : 'client', names: leaf.names }
      const pair = await makeCertificate({ ...request, ...validity(now, LEAF_DAYS) }, issuer)
      writeFileAtomic(leaf.key, pair.key, { mode: 0o600, owner: leaf.owner })
      writeFileAtomic(leaf.certificate, pair.certificate, { mode: 0o644 })
      made.push(leaf.kind)
    } else {
      writeFileAtomic(leaf.key, readIfThere(leaf.key) ?? '', { mode: 0o600, owner: leaf.owner })
    }
  }
  return made
}

/** The X.509 library is large, and most starts have nothing to make. */
async function makeCertificate(request: CertificateRequest, issuer?: { key: string; commonName: string }): Promise<KeyAndCertificate> {
  const library = await import('./certificate.ts')
  return library.makeCertificate(request, issuer)
}

/** Why this pair can't be used any longer; undefined when it can. */
export function reasonToRenew(
  certificatePem: string | undefined,
  keyPem: string | undefined,
  ca: X509Certificate,
  names: readonly string[],
  now: Date,
): string | undefined {
  if (certificatePem === undefined || keyPem === undefined) return 'is missing'
  let certificate: X509Certificate
  try {
    certificate = new X509Certificate(certificatePem)
    if (!certificate.checkPrivateKey(createPrivateKey(keyPem))) return 'does not match its key'
  } catch {
    return 'is not readable'
  }
  if (!certificate.checkIssued(ca) || !certificate.verify(ca.publicKey)) return 'is not of this authority'
  if (Date.parse(certificate.validTo) - now.getTime() < RENEW_BEFORE_DAYS * DAY_MS) return 'comes near its end'
  const missing = names.find((name) => (isIP(name) ? certificate.checkIP(name) : certificate.checkHost(name)) === undefined)
  return missing === undefined ? undefined : `does not name ${missing}`
}

function readCertificate(path: string): X509Certificate {
  try {
    return new X509Certificate(readIfThere(path) ?? '')
  } catch (error) {
    throw new BeyondError('BAD_CERTIFICATE', `${path} is not a certificate: put back the right one.`, { cause: error, facts: { path } })
  }
}

function authorityKey(paths: TlsPaths, ca: X509Certificate, kind: CertificateKind, reason: string): string {
  const key = readIfThere(paths.caKey)
  const usable = key !== undefined && ca.checkPrivateKey(createPrivateKey(key))
  if (usable) return key
  throw new BeyondError(
    'BAD_CERTIFICATE',
    `The ${kind}'s certificate ${reason} and can't be made anew, because ${paths.caKey} is not the key of ${paths.ca}: put back the right one.`,
    { facts: { path: paths.caKey } },
  )
}

const commonNameOf = (certificate: X509Certificate): string => /^CN=(.*)$/m.exec(certificate.subject)?.[1] ?? ''

function validity(now: Date, days: number): { notBefore: Date; notAfter: Date } {
  return { notBefore: new Date(now.getTime() - BACKDATE_MS), notAfter: new Date(now.getTime() + days * DAY_MS) }
}

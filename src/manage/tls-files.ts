/**
 * The certificates of a box: an authority of its own, a server's pair for PgBouncer and QUIC, a client's pair for subscribers.
 * Runs at boot, before anything reads the files, and from time to time after it. A pair that does not match, is not of our authority,
 * lacks a name or comes near its end is made anew; the authority itself is never replaced, since subscribers trust it.
 *
 * A certificate and its key are swapped together: both lie in a folder of their own, and one link names the folder that counts.
 *
 *   server.crt → server/server.crt    server.key → server/server.key    server → pairs/server-20300101T000000-1a2b3c4d
 */
import { createPrivateKey, randomBytes, X509Certificate } from 'node:crypto'
import { chmodSync, chownSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, renameSync, rmSync, statSync, symlinkSync } from 'node:fs'
import { isIP } from 'node:net'
import { basename, dirname, join } from 'node:path'
import { BeyondError } from '../errors.ts'
import { type Owner, readIfThere, syncDirectory, TEMPORARY_SUFFIX, writeFileAtomic } from './atomic-file.ts'
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
  const server = reasonToRenew(readThrough(paths.serverCertificate), readThrough(paths.serverKey), ca, serverNames, now)
  const client = reasonToRenew(readThrough(paths.clientCertificate), readThrough(paths.clientKey), ca, [], now)
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
    const [certificate, key] = [readThrough(leaf.certificate), readThrough(leaf.key)]
    const reason = reasonToRenew(certificate, key, ca, leaf.names, now)
    if (reason !== undefined) {
      const issuer = { key: authorityKey(paths, ca, leaf.kind, reason), commonName: commonNameOf(ca) }
      const request = { kind: leaf.kind, commonName: leaf.kind === 'server' ? 'localhost' : 'client', names: leaf.names }
      const pair = await makeCertificate({ ...request, ...validity(now, LEAF_DAYS) }, issuer)
      swapPair(leaf, pair, now)
      made.push(leaf.kind)
    } else if (!isLinked(leaf)) {
      swapPair(leaf, { certificate: certificate ?? '', key: key ?? '' }, now) // of a version that knew no folders
    } else {
      writeFileAtomic(join(pairFolder(leaf), basename(leaf.key)), key ?? '', { mode: 0o600, owner: leaf.owner })
    }
  }
  return made
}

type Leaf = { readonly kind: 'server' | 'client'; readonly key: string; readonly certificate: string; readonly owner: Owner | undefined }

/** Writes the pair into a folder of its own, whole, and then makes it the one that counts. */
function swapPair(leaf: Leaf, pair: KeyAndCertificate, now: Date): void {
  const folder = dirname(leaf.certificate)
  const pairs = join(folder, 'pairs')
  const name = `${leaf.kind}-${now.toISOString().slice(0, 19).replaceAll(/[-:]/g, '')}-${randomBytes(4).toString('hex')}`
  makeLike(folder, pairs)
  makeLike(folder, join(pairs, name))
  writeFileAtomic(join(pairs, name, basename(leaf.key)), pair.key, { mode: 0o600, owner: leaf.owner })
  writeFileAtomic(join(pairs, name, basename(leaf.certificate)), pair.certificate, { mode: 0o644 })
  const former = readLink(join(folder, leaf.kind))
  link(join(folder, leaf.kind), join('pairs', name)) // the moment of the swap
  for (const path of [leaf.key, leaf.certificate]) {
    const target = join(leaf.kind, basename(path))
    if (readLink(path) !== target) link(path, target)
  }
  syncDirectory(folder)
  // The pair before stays for who is just reading it.
  for (const other of readdirSync(pairs)) {
    if (other.startsWith(`${leaf.kind}-`) && other !== name && join('pairs', other) !== former) rmSync(join(pairs, other), { recursive: true, force: true })
  }
}

const pairFolder = ({ certificate, kind }: Leaf): string => join(dirname(certificate), kind)

function isLinked(leaf: Leaf): boolean {
  return readLink(pairFolder(leaf)) !== undefined && [leaf.key, leaf.certificate].every((path) => readLink(path) === join(leaf.kind, basename(path)))
}

/** A link in place of whatever file or link has this name now, at once. */
function link(path: string, target: string): void {
  const temporary = path + TEMPORARY_SUFFIX
  rmSync(temporary, { force: true, recursive: true })
  symlinkSync(target, temporary)
  renameSync(temporary, path)
}

/** Who may pass through the one may pass through the other; also when it was made, and we were killed before the rest. */
function makeLike(model: string, path: string): void {
  const { mode, uid, gid } = statSync(model)
  if (!lstatSync(path, { throwIfNoEntry: false })) mkdirSync(path, { mode: 0o700 })
  const is = lstatSync(path)
  if (process.getuid?.() === 0 && (is.uid !== uid || is.gid !== gid)) chownSync(path, uid, gid)
  if ((is.mode & 0o777) !== (mode & 0o777)) chmodSync(path, mode & 0o777)
}

function readLink(path: string): string | undefined {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() ? readlinkSync(path) : undefined
}

/** The content of a file, through the links of ours; undefined when there is none. */
function readThrough(path: string): string | undefined {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ? readFileSync(path, 'utf8') : undefined
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

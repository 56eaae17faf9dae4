/**
 * Makes X.509 certificates (version 3, EC P-256, ECDSA with SHA-256): one authority, and servers and clients that it signs.
 * Pure but for the random keys and serial numbers. Source: RFC 5280, RFC 5480.
 */
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto'
import { isIP } from 'node:net'
import * as der from './der.ts'

export type KeyAndCertificate = { readonly key: string; readonly certificate: string }

export type CertificateKind = 'authority' | 'server' | 'client'

const OID = {
  commonName: '2.5.4.3',
  ecdsaWithSha256: '1.2.840.10045.4.3.2',
  subjectKeyIdentifier: '2.5.29.14',
  keyUsage: '2.5.29.15',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  authorityKeyIdentifier: '2.5.29.35',
  extendedKeyUsage: '2.5.29.37',
  serverAuth: '1.3.6.1.5.5.7.3.1',
  clientAuth: '1.3.6.1.5.5.7.3.2',
}

export type CertificateRequest = {
  readonly kind: CertificateKind
  readonly commonName: string
  /** DNS names and IP addresses; only servers have them. */
  readonly names?: readonly string[]
  readonly notBefore: Date
  readonly notAfter: Date
}

/** A new key and a certificate for it: signed by itself without an issuer, else by the issuer. Both in PEM. */
export function makeCertificate(request: CertificateRequest, issuer?: { key: string; commonName: string }): KeyAndCertificate {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const signingKey = issuer ? createPrivateKey(issuer.key) : privateKey
  const algorithm = der.sequence(der.objectIdentifier(OID.ecdsaWithSha256))
  const body = der.sequence(
    der.explicit(0, der.integer(Buffer.from([2]))), // version 3
    der.integer(serialNumber()),
    algorithm,
    distinguishedName(issuer?.commonName ?? request.commonName),
    der.sequence(der.time(request.notBefore), der.time(request.notAfter)),
    distinguishedName(request.commonName),
    spki(publicKey),
    der.explicit(3, der.sequence(...extensions(request, publicKey, createPublicKey(signingKey)))),
  )
  const signature = sign('sha256', body, signingKey)
  const certificate = der.sequence(body, algorithm, der.bitString(signature))
  return { key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), certificate: pem(certificate) }
}

function extensions(request: CertificateRequest, publicKey: KeyObject, issuerKey: KeyObject): readonly Uint8Array[] {
  const isAuthority = request.kind === 'authority'
  const purpose = request.kind === 'server' ? OID.serverAuth : OID.clientAuth
  // Key usage bits: 0 digitalSignature, 5 keyCertSign, 6 cRLSign.
  const usage = isAuthority ? der.bitString(Buffer.from([0b0000_0110]), 1) : der.bitString(Buffer.from([0b1000_0000]), 7)
  return [
    extension(OID.basicConstraints, true, isAuthority ? der.sequence(der.boolean(true), der.integer(Buffer.from([0]))) : der.sequence()),
    extension(OID.keyUsage, true, usage),
    extension(OID.subjectKeyIdentifier, false, der.octetString(keyIdentifier(publicKey))),
    extension(OID.authorityKeyIdentifier, false, der.sequence(der.implicit(0, keyIdentifier(issuerKey)))),
    ...(isAuthority ? [] : [extension(OID.extendedKeyUsage, false, der.sequence(der.objectIdentifier(purpose)))]),
    ...(request.names?.length ? [extension(OID.subjectAltName, false, der.sequence(...request.names.map(generalName)))] : []),
  ]
}

function extension(id: string, critical: boolean, value: Uint8Array): Uint8Array {
  return der.sequence(der.objectIdentifier(id), ...(critical ? [der.boolean(true)] : []), der.octetString(value))
}

function distinguishedName(commonName: string): Uint8Array {
  return der.sequence(der.set(der.sequence(der.objectIdentifier(OID.commonName), der.utf8String(commonName))))
}

function generalName(name: string): Uint8Array {
  return isIP(name) ? der.implicit(7, addressBytes(name)) : der.implicit(2, Buffer.from(name, 'ascii'))
}

/** The 4 or 16 bytes of an address. */
export function addressBytes(address: string): Uint8Array {
  if (isIP(address) === 4) return Buffer.from(address.split('.').map(Number))
  const withoutZone = address.split('%')[0]
  // An embedded IPv4 tail, `::ffff:1.2.3.4`, is two groups.
  const tail = /(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(withoutZone)
  const text = tail
    ? withoutZone.slice(0, tail.index) + Buffer.from(tail.slice(1).map(Number)).toString('hex').replace(/(.{4})/, '$1:')
    : withoutZone
  const [head, rest] = text.split('::').map((half) => half.split(':').filter((group) => group !== ''))
  const groups = rest === undefined ? head : [...head, ...Array<string>(8 - head.length - rest.length).fill('0'), ...rest]
  return Buffer.from(groups.map((group) => group.padStart(4, '0')).join(''), 'hex')
}

const spki = (key: KeyObject): Uint8Array => key.export({ type: 'spki', format: 'der' })

/** RFC 7093 method 1: 160 bits of the SHA-256 of the key's point, which are the last 65 bytes of a P-256 SPKI. */
const keyIdentifier = (key: KeyObject): Uint8Array => createHash('sha256').update(spki(key).subarray(-65)).digest().subarray(0, 20)

// Positive and never of fewer bytes: the top bit is cleared, the next one set.
function serialNumber(): Uint8Array {
  const bytes = randomBytes(16)
  bytes[0] = (bytes[0] & 0x7f) | 0x40
  return bytes
}

function pem(bytes: Uint8Array): string {
  const lines = Buffer.from(bytes).toString('base64').replaceAll(/.{64}(?!$)/g, '$&\n')
  return `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`
}

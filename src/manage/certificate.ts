/** Makes X.509 certificates (EC P-256, ECDSA with SHA-256): one authority, and servers and clients that it signs. */
import { webcrypto } from 'node:crypto'
import { isIP } from 'node:net'
// The X.509 library's dependency injection needs it, before the library itself.
import 'reflect-metadata'
import * as x509 from '@peculiar/x509'

export type KeyAndCertificate = { readonly key: string; readonly certificate: string }

export type CertificateKind = 'authority' | 'server' | 'client'

export type CertificateRequest = {
  readonly kind: CertificateKind
  readonly commonName: string
  /** DNS names and IP addresses; only servers have them. */
  readonly names?: readonly string[]
  readonly notBefore: Date
  readonly notAfter: Date
}

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }

x509.cryptoProvider.set(webcrypto as never)

/** A new key and a certificate for it: signed by itself without an issuer, else by the issuer. Both in PEM. */
export async function makeCertificate(request: CertificateRequest, issuer?: { key: string; commonName: string }): Promise<KeyAndCertificate> {
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify'])
  const signing = issuer ? await importKey(issuer.key) : keys
  const certificate = await x509.X509CertificateGenerator.create({
    subject: distinguishedName(request.commonName),
    issuer: distinguishedName(issuer?.commonName ?? request.commonName),
    notBefore: request.notBefore,
    notAfter: request.notAfter,
    publicKey: keys.publicKey as never,
    signingKey: signing.privateKey as never,
    signingAlgorithm: ALGORITHM,
    extensions: [
      ...purpose(request.kind),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey as never),
      await x509.AuthorityKeyIdentifierExtension.create(signing.publicKey as never),
      ...(request.names?.length ? [new x509.SubjectAlternativeNameExtension(request.names.map(generalName))] : []),
    ],
  })
  const key = await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)
  return { key: `${x509.PemConverter.encode(key, 'PRIVATE KEY')}\n`, certificate: `${certificate.toString('pem')}\n` }
}

function purpose(kind: CertificateKind): x509.Extension[] {
  if (kind === 'authority')
    return [new x509.BasicConstraintsExtension(true, 0, true), new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true)]
  return [
    new x509.BasicConstraintsExtension(false, undefined, true),
    new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
    new x509.ExtendedKeyUsageExtension([kind === 'server' ? x509.ExtendedKeyUsage.serverAuth : x509.ExtendedKeyUsage.clientAuth]),
  ]
}

/** As structured data: a name may hold what the text form would read as syntax. */
const distinguishedName = (commonName: string): x509.JsonName => [{ CN: [commonName] }]

const generalName = (name: string): { type: 'ip' | 'dns'; value: string } => ({ type: isIP(name) ? 'ip' : 'dns', value: name.split('%')[0] })

/** A private key from PEM, with the public key that belongs to it. */
async function importKey(pem: string): Promise<webcrypto.CryptoKeyPair> {
  const privateKey = await webcrypto.subtle.importKey('pkcs8', x509.PemConverter.decodeFirst(pem), ALGORITHM, true, ['sign'])
  const { d: _private, key_ops: _operations, ...point } = await webcrypto.subtle.exportKey('jwk', privateKey)
  const publicKey = await webcrypto.subtle.importKey('jwk', { ...point, key_ops: ['verify'] }, ALGORITHM, true, ['verify'])
  return { privateKey, publicKey }
}

/** Certificates for tests: an authority, and what it signs. EC P-256, made anew for each call. */
import { webcrypto } from 'node:crypto'

// @peculiar/x509 brings a container that asks for the metadata proposal; it uses nothing of it for what we call.
const nothing = (): undefined => undefined
for (const name of ['getMetadata', 'getOwnMetadata', 'defineMetadata']) (Reflect as unknown as Record<string, unknown>)[name] ??= nothing
const x509 = await import('@peculiar/x509')

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
const DAY_MS = 86_400_000

export type Identity = { readonly cert: string; readonly key: string }
export type Authority = { readonly cert: string; issue(options: IssueOptions): Promise<Identity> }
export type IssueOptions = {
  readonly name: string
  readonly use: 'server' | 'client'
  /** Subject alternative names, of a server: names and IP addresses. */
  readonly hosts?: readonly string[]
  readonly notBefore?: Date
  readonly notAfter?: Date
}

x509.cryptoProvider.set(webcrypto as never)

export async function createAuthority(name = 'test authority'): Promise<Authority> {
  const keys = await generateKeys()
  const ca = await x509.X509CertificateGenerator.createSelfSigned({
    name: `CN=${name}`,
    keys: keys as never,
    signingAlgorithm: algorithm,
    notBefore: new Date(Date.now() - DAY_MS),
    notAfter: new Date(Date.now() + 10 * DAY_MS),
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey as never),
    ],
  })
  return {
    cert: ca.toString('pem'),
    async issue({ name: subject, use, hosts = [], notBefore, notAfter }) {
      const own = await generateKeys()
      const purpose = use === 'server' ? x509.ExtendedKeyUsage.serverAuth : x509.ExtendedKeyUsage.clientAuth
      const alternatives = hosts.map((host) => ({ type: /^[\d.]+$|:/.test(host) ? ('ip' as const) : ('dns' as const), value: host }))
      const certificate = await x509.X509CertificateGenerator.create({
        subject: `CN=${subject}`,
        issuer: ca.subject,
        publicKey: own.publicKey as never,
        signingKey: keys.privateKey as never,
        signingAlgorithm: algorithm,
        notBefore: notBefore ?? new Date(Date.now() - DAY_MS),
        notAfter: notAfter ?? new Date(Date.now() + 5 * DAY_MS),
        extensions: [
          new x509.BasicConstraintsExtension(false, undefined, true),
          new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
          new x509.ExtendedKeyUsageExtension([purpose]),
          ...(alternatives.length > 0 ? [new x509.SubjectAlternativeNameExtension(alternatives)] : []),
          await x509.AuthorityKeyIdentifierExtension.create(keys.publicKey as never),
        ],
      })
      return { cert: certificate.toString('pem'), key: await exportKey(own.privateKey) }
    },
  }
}

async function generateKeys(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
}

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', key)).toString('base64')
  return `-----BEGIN PRIVATE KEY-----\n${der.match(/.{1,64}/g)!.join('\n')}\n-----END PRIVATE KEY-----\n`
}

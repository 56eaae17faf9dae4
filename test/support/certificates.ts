/** Certificates for tests: an authority, and what it signs. Made anew for each call. */
import { makeCertificate } from '../../src/manage/certificate.ts'

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

export async function createAuthority(name = 'test authority'): Promise<Authority> {
  const now = Date.now()
  const yesterday = new Date(now - DAY_MS)
  const ca = await makeCertificate({ kind: 'authority', commonName: name, notBefore: yesterday, notAfter: new Date(now + 10 * DAY_MS) })
  return {
    cert: ca.certificate,
    async issue({ name: commonName, use, hosts = [], notBefore = yesterday, notAfter = new Date(now + 5 * DAY_MS) }) {
      const made = await makeCertificate({ kind: use, commonName, names: hosts, notBefore, notAfter }, { key: ca.key, commonName: name })
      return { cert: made.certificate, key: made.key }
    },
  }
}

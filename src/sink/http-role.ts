/**
 * What a client may do, by the name in its certificate. Pure.
 *
 * The authority vouches for the name; the sink's operator says which names may do more than read. A certificate that is
 * not named, has no name or more than one may read and nothing else.
 */
import { BeyondError } from '../errors.ts'

/** Each one may do what those before it may. */
export const roles = ['read', 'seal', 'admin'] as const
export type Role = (typeof roles)[number]

/** Names of certificates (their CN), or `sha256:` and 64 hexadecimal digits of one certificate. */
export type RoleMap = ReadonlyMap<string, Role>

export type PeerCertificate = { readonly subject?: { readonly CN?: string | string[] }; readonly fingerprint256?: string }

export type Peer = { readonly name: string | undefined; readonly role: Role }

/** Reads `NAME=ROLE` of each; throws BAD_ARGUMENT. A name given twice has the role that was given last. */
export function parseRoles(given: readonly string[]): RoleMap {
  return new Map(
    given.map((text) => {
      const at = text.lastIndexOf('=')
      const role = roles.find((each) => each === text.slice(at + 1))
      if (at < 1 || !role)
        throw new BeyondError('BAD_ARGUMENT', `A role is given as NAME=ROLE, ROLE one of ${roles.join(', ')}, not ${JSON.stringify(text)}.`)
      const name = text.slice(0, at)
      return [/^sha256:/i.test(name) ? name.replaceAll(':', '').toLowerCase() : name, role] as const
    }),
  )
}

export function peerOf(certificate: PeerCertificate, map: RoleMap): Peer {
  const cn = certificate.subject?.CN
  const name = typeof cn === 'string' && cn !== '' ? cn : undefined
  const print = certificate.fingerprint256 === undefined ? undefined : `sha256${certificate.fingerprint256.replaceAll(':', '').toLowerCase()}`
  return { name, role: map.get(print ?? '') ?? map.get(name ?? '') ?? 'read' }
}

export const mayAct = (has: Role, needs: Role): boolean => roles.indexOf(has) >= roles.indexOf(needs)

/** A box keeps its own pins: those that bear its name, alone or before a dot. */
export const ownsPin = (peer: Peer, pin: string): boolean =>
  peer.role === 'admin' || (peer.name !== undefined && (pin === peer.name || pin.startsWith(`${peer.name}.`)))

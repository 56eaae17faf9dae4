/** How sinks reach the Postgres of this box: the address, the role, and what Postgres needs to let them in. */
import { randomBytes } from 'node:crypto'
import { isIP } from 'node:net'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { BeyondError } from '../errors.ts'
import { readIfThere, writeFileAtomic } from './atomic-file.ts'
import { isLoopback } from './box-config.ts'
import type { Layout } from './layout.ts'
import type { Settings } from './postgres-config.ts'
import { type Member, synchronousStandbyNames } from './sink-quorum.ts'

export const SINK_ROLE = 'beyond_sink'

/** Beside loopback, which the box itself uses; undefined: sinks on this machine come over loopback too. */
export function replicationAddress(listen: string): string | undefined {
  return isLoopback(listen) ? undefined : listen
}

/** Off loopback nothing but replication gets in, and only over TLS. */
export function listenSettings(listen: string, { serverCertificate, serverKey }: { readonly serverCertificate: string; readonly serverKey: string }): Settings {
  const address = replicationAddress(listen)
  if (address === undefined) return {}
  const addresses = ['0.0.0.0', '::'].includes(address) ? address : `127.0.0.1,${address}`
  return { listen_addresses: addresses, ssl: true, ssl_cert_file: serverCertificate, ssl_key_file: serverKey, ssl_min_protocol_version: 'TLSv1.3' }
}

/** The last lines of pg_hba.conf: what no line admits is refused. */
export function accessLines(listen: string): readonly string[] {
  return replicationAddress(listen) === undefined ? [] : [`hostssl\treplication\t${SINK_ROLE}\tall\tscram-sha-256`]
}

export const quorumSettings = (members: readonly Member[]): Settings => ({ synchronous_standby_names: synchronousStandbyNames(members.map(({ name }) => name)) })

/** Made once; the sinks are told it when they attach. */
export function ensureSinkPassword(layout: Layout): string {
  const path = join(layout.secrets, SINK_ROLE)
  const password = readIfThere(path)?.trimEnd() ?? randomBytes(24).toString('base64url')
  if (!/^[\w-]{16,128}$/.test(password)) {
    throw new BeyondError('DATA_DIRECTORY', `${path} does not hold a password that was made here: put the right file back.`, { facts: { path } })
  }
  writeFileAtomic(path, `${password}\n`, { mode: 0o600 })
  return password
}

/** What a sink is told when it attaches. The authority that it trusts is its own operator's choice. */
export function primaryConninfoFor(listen: string, port: number, password: string): Readonly<Record<string, string>> {
  const address = replicationAddress(listen)
  const login = { port: String(port), user: SINK_ROLE, password }
  return address === undefined ? { host: '127.0.0.1', ...login } : { host: reachable(address), sslmode: 'require', ...login }
}

function reachable(address: string): string {
  if (!['0.0.0.0', '::'].includes(address)) return address
  const family = isIP(address)
  const own = Object.values(networkInterfaces()).flatMap((each) => each ?? [])
  return own.find(({ internal, family: each }) => !internal && each === `IPv${family}`)?.address ?? '127.0.0.1'
}

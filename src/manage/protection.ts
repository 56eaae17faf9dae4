/**
 * What a commit that was acknowledged can survive, from what Postgres says of its settings and its standbys. Pure.
 * Source: https://www.postgresql.org/docs/18/runtime-config-replication.html#GUC-SYNCHRONOUS-STANDBY-NAMES
 */
import { formatLsn, type Lsn, parseLsn } from '../wal/lsn.ts'

export type Standby = {
  readonly name: string
  readonly state: string
  /** async, potential, sync or quorum. */
  readonly sync: string
  readonly flushed: string | null
  /** WAL that it has not flushed yet, bytes. */
  readonly lagBytes: number | null
  /** As the standby last reported; null when it has nothing to report. */
  readonly lagMs: number | null
}

export type Protection =
  /** Commits are acknowledged before they are on any disk. */
  | { readonly kind: 'none'; readonly because: string }
  | { readonly kind: 'disk' }
  /** `upTo`: every commit below this LSN is on `needed` standbys as well; null when they are too few to tell. */
  | { readonly kind: 'standbys'; readonly needed: number; readonly present: number; readonly upTo: string | null; readonly names: readonly string[] }

export type ProtectionInput = {
  readonly fsync: boolean
  readonly synchronousCommit: string
  readonly standbyNames: string
  readonly standbys: readonly Standby[]
}

export function protectionOf({ fsync, synchronousCommit, standbyNames, standbys }: ProtectionInput): Protection {
  if (!fsync) return { kind: 'none', because: 'fsync is off' }
  if (synchronousCommit === 'off') return { kind: 'none', because: 'synchronous_commit is off' }
  const rule = parseStandbyNames(standbyNames)
  if (!rule || synchronousCommit === 'local') return { kind: 'disk' }
  const counted = standbys.filter(({ sync }) => sync === (rule.method === 'any' ? 'quorum' : 'sync'))
  const flushed = counted.flatMap(({ flushed }) => parseLsn(flushed ?? '') ?? []).sort((a, b) => (a > b ? -1 : a < b ? 1 : 0))
  const upTo: Lsn | undefined = flushed[rule.count - 1]
  return {
    kind: 'standbys',
    needed: rule.count,
    present: counted.length,
    upTo: upTo === undefined ? null : formatLsn(upTo),
    names: counted.map(({ name }) => name),
  }
}

/** `s1, s2`: one of them by priority. `FIRST 2 (…)`, `2 (…)`: by priority. `ANY 2 (…)`: any. Undefined: nobody is waited for. */
export function parseStandbyNames(text: string): { readonly method: 'first' | 'any'; readonly count: number } | undefined {
  if (text.trim() === '') return undefined
  const [, method, count] = /^\s*(?:(any|first)\s+)?(\d+)\s*\(/i.exec(text) ?? []
  return { method: method?.toLowerCase() === 'any' ? 'any' : 'first', count: Number(count ?? 1) }
}

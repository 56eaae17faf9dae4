/** Which segments may go. A decision without I/O: bytes, ages and cursors in, a count out. */
import type { Lsn } from '../wal/lsn.ts'
import type { Base } from './segment.ts'

export type RetentionPolicy = {
  /** The log is kept below this size, unless a durable consumer needs more. Bytes. */
  readonly maxBytes: number
  /** Transactions that are older may go. Milliseconds. */
  readonly maxAgeMs: number
  /** A durable consumer keeps the log up to this size and no further: then it loses its place. Bytes. */
  readonly maxConsumerBytes: number
}

/**
 * How many of the oldest segments may be removed. The newest one always stays. `consumers` are the commit LSNs that
 * durable consumers have acknowledged; `now` is in microseconds since 1970, like commit times.
 */
export function expiredSegments(
  segments: readonly { readonly base: Base; readonly size: number }[],
  policy: RetentionPolicy,
  consumers: readonly Lsn[],
  now: bigint,
): number {
  let bytes = segments.reduce((sum, segment) => sum + segment.size, 0)
  let count = 0
  while (count + 1 < segments.length) {
    const newest = segments[count + 1].base
    const tooLarge = bytes > policy.maxBytes
    // Time 0: nothing so far has had a commit time.
    const tooOld = newest.time > 0n && now - newest.time > BigInt(policy.maxAgeMs) * 1000n
    const marksOnly = newest.lsn === segments[count].base.lsn
    if (!tooLarge && !tooOld && !marksOnly) break
    const needed = consumers.some((lsn) => lsn < newest.lsn)
    if (needed && bytes <= policy.maxConsumerBytes) break
    bytes -= segments[count].size
    count++
  }
  return count
}

/** How far a reader is behind the end of the log, in bytes and in time. */
import type { Position } from '../transport/envelopes.ts'
import type { ChangeLog } from './change-log.ts'
import { findPosition } from './log-search.ts'
import { SEGMENT_HEADER_BYTES } from './segment.ts'

/** `ms` is the age, by commit time, of the oldest transaction that is lacking; 0 when none is. */
export type Lag = { readonly bytes: bigint; readonly ms: bigint }

const NONE: Lag = { bytes: 0n, ms: 0n }

/** Of a reader that stands at `offset`. Exact to a block near the end, to the spacing of the index farther back. */
export function lagAt(log: ChangeLog, offset: number, nowMs: number): Lag {
  if (offset >= log.end) return NONE
  return { bytes: BigInt(log.end - offset), ms: age(commitTimeAt(log, offset), nowMs) }
}

/** Of a position that nobody reads at now. One that the log no longer holds lacks everything that it does hold. */
export async function lagAfter(log: ChangeLog, position: Position, nowMs: number): Promise<Lag> {
  const search = await findPosition(log, position)
  if (search.found === 'ahead') return NONE
  if (search.found !== 'place') return lagAt(log, log.segments[0].start, nowMs)
  const { offset, skip } = search.place
  return lagAt(log, offset + skip, nowMs)
}

/** Microseconds since 1970; 0 when it is not known. */
function commitTimeAt(log: ChangeLog, offset: number): bigint {
  const segment = log.segments.findLast(({ start }) => start <= offset) ?? log.segments[0]
  const inSegment = Math.max(offset - segment.start, SEGMENT_HEADER_BYTES)
  const block = log.tail.at(segment.start + inSegment)
  if (block && block.header.time > 0n) return block.header.time
  const entry = segment.index?.findLast((candidate) => candidate.offset <= inSegment)
  return (entry?.before ?? segment.base).time
}

function age(micros: bigint, nowMs: number): bigint {
  const ms = BigInt(Math.round(nowMs)) - micros / 1000n
  return micros > 0n && ms > 0n ? ms : 0n
}

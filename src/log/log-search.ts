/**
 * Finds places in the change log: after a transaction whose chain hash is known, from a commit time on, before the
 * newest transaction. Searches go from the sparse index of one segment over its block headers into one block.
 */
import { open } from 'node:fs/promises'
import type { Position } from '../transport/envelopes.ts'
import type { Lsn } from '../wal/lsn.ts'
import { readFully, scanBlocks } from './block-scan.ts'
import { noteBlock, type ChangeLog, type Segment } from './change-log.ts'
import { SEGMENT_HEADER_BYTES, type Base } from './segment.ts'
import { walkTransactions } from './transaction-walk.ts'

/** Where reading begins: at the block at `offset`, `skip` bytes into its payload, after the transaction `after`. */
export type Place = { readonly offset: number; readonly skip: number; readonly after: Position }

export type Search =
  | { readonly found: 'place'; readonly place: Place }
  /** The log holds another history at this position. */
  | { readonly found: 'broken' }
  /** Retention has removed what follows the position. */
  | { readonly found: 'too-old' }
  /** The position is newer than all that is durable. */
  | { readonly found: 'ahead' }

const position = ({ lsn, chain }: { lsn: Lsn; chain: Uint8Array }): Position => ({ lsn, chain })
const sameChain = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0

export const endOf = (log: ChangeLog): Place => ({ offset: log.end, skip: 0, after: position(log.head) })

export const beginningOf = (log: ChangeLog): Place => ({ offset: log.segments[0].start, skip: 0, after: log.oldest })

/** After the transaction at `wanted.lsn`, if the log holds that very transaction. */
export async function findPosition(log: ChangeLog, wanted: Position): Promise<Search> {
  if (wanted.lsn > log.head.lsn) return { found: 'ahead' }
  const verdict = (chain: Uint8Array, place: Place): Search => (sameChain(chain, wanted.chain) ? { found: 'place', place } : { found: 'broken' })
  if (wanted.lsn === log.head.lsn) return verdict(log.head.chain, endOf(log))
  const segment = log.segments.findLast(({ base }) => base.lsn <= wanted.lsn)
  if (!segment) return { found: 'too-old' }
  if (segment.base.lsn === wanted.lsn) return verdict(segment.base.chain, { offset: segment.start, skip: 0, after: position(segment.base) })
  const place = await findCommit(log, segment, (lsn) => lsn >= wanted.lsn, wanted.lsn)
  if (!place || place.after.lsn !== wanted.lsn) return { found: 'broken' }
  return verdict(place.after.chain, place)
}

/** The newest of `candidates` that the log holds too. */
export async function lastShared(log: ChangeLog, candidates: readonly Position[]): Promise<Position | undefined> {
  for (const candidate of [...candidates].sort((a, b) => (a.lsn < b.lsn ? 1 : -1)))
    if ((await findPosition(log, candidate)).found === 'place') return candidate
  return undefined
}

/** Before the first transaction that committed at or after `micros`; the end of the log when there is none. */
export async function findTime(log: ChangeLog, micros: bigint): Promise<Place> {
  if (log.head.time < micros) return endOf(log)
  // The segment before the first whose predecessor is late enough holds the border.
  const after = log.segments.findIndex(({ base }) => base.time >= micros && base.time > 0n)
  const segments = log.segments.slice(Math.max(0, (after === -1 ? log.segments.length : after) - 1))
  for (const segment of segments) {
    const entry = indexEntry(await indexOf(segment), ({ before }) => before.time < micros)
    await using file = await open(segment.path, 'r')
    let before: Base = entry?.before ?? segment.base
    for await (const block of scanBlocks(file, entry?.offset ?? SEGMENT_HEADER_BYTES, segment.size, false)) {
      const { header } = block
      if (header.transactions > 0 && header.time >= micros && !header.beginsInside) {
        const payload = await payloadOf(file, block)
        let skip = 0
        walkTransactions(payload, {
          begin: (_lsn, time, offset) => {
            skip = offset
            return time >= micros
          },
          commit: (lsn, chain) => {
            before = { lsn, chain: Buffer.from(chain), endLsn: lsn, time: 0n }
            return false
          },
        })
        return { offset: segment.start + block.start, skip, after: position(before) }
      }
      if (header.transactions > 0) before = header
    }
  }
  return endOf(log)
}

/** The transaction before the newest one: what a replay of the newest is chained to. undefined when retention took it. */
export async function beforeHead(log: ChangeLog): Promise<Position | undefined> {
  const head = log.head.lsn
  const segment = log.segments.findLast(({ base }) => base.lsn < head)
  if (!segment) return undefined
  const entry = indexEntry(await indexOf(segment), ({ before }) => before.lsn < head)
  await using file = await open(segment.path, 'r')
  let before: Position = position(entry?.before ?? segment.base)
  for await (const block of scanBlocks(file, entry?.offset ?? SEGMENT_HEADER_BYTES, segment.size, false)) {
    const { header } = block
    if (header.transactions === 0) continue
    if (header.lsn < head) before = position(header)
    else if (header.transactions > 1)
      walkTransactions(await payloadOf(file, block), {
        commit: (lsn, chain) => {
          if (lsn < head) before = { lsn, chain: Buffer.from(chain) }
          return lsn >= head
        },
      })
  }
  return before
}

/** After the first commit in the segment that `reached` accepts. */
async function findCommit(log: ChangeLog, segment: Segment, reached: (lsn: Lsn) => boolean, wanted: Lsn): Promise<Place | undefined> {
  const entry = indexEntry(await indexOf(segment), ({ before }) => before.lsn < wanted)
  await using file = await open(segment.path, 'r')
  const limit = Math.min(segment.size, log.end - segment.start)
  for await (const block of scanBlocks(file, entry?.offset ?? SEGMENT_HEADER_BYTES, limit, false)) {
    const { header } = block
    if (header.transactions === 0 || !reached(header.lsn)) continue
    if (header.lsn === wanted && !header.endsInside) return { offset: segment.start + block.end, skip: 0, after: position(header) }
    const payload = await payloadOf(file, block)
    let place: Place | undefined
    walkTransactions(payload, {
      commit: (lsn, chain, end) => {
        if (reached(lsn)) place = { offset: segment.start + block.start, skip: end, after: { lsn, chain: Buffer.from(chain) } }
        return place !== undefined
      },
    })
    return place
  }
  return undefined
}

async function payloadOf(file: import('node:fs/promises').FileHandle, block: { start: number; end: number; headerLength: number }): Promise<Buffer> {
  const payload = Buffer.allocUnsafe(block.end - block.start - block.headerLength)
  await readFully(file, payload, block.start + block.headerLength)
  return payload
}

/** The last entry that `before` accepts: where a scan may begin. */
function indexEntry(index: NonNullable<Segment['index']>, before: (entry: NonNullable<Segment['index']>[number]) => boolean) {
  return index.findLast(before)
}

/** The sparse index of a segment, made from its block headers when it is first needed. */
async function indexOf(segment: Segment): Promise<NonNullable<Segment['index']>> {
  if (segment.index) return segment.index
  const built: Segment = { ...segment, index: [] }
  await using file = await open(segment.path, 'r')
  let before: Base = segment.base
  for await (const { header, start } of scanBlocks(file, SEGMENT_HEADER_BYTES, segment.size, false)) {
    noteBlock(built, start, header, before)
    if (header.transactions > 0) before = header
  }
  segment.index = built.index
  return built.index!
}

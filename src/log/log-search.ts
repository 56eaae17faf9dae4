/**
 * Finds places in the change log: after a transaction whose chain hash is known, from a commit time on, before the
 * newest transaction. Searches go from the sparse index of one segment over its block headers into one block. What they
 * read is checked: damage is LOG_CORRUPT, never a verdict about history.
 */
import { open, type FileHandle } from 'node:fs/promises'
import { BeyondError, codeOf, fromSystem } from '../errors.ts'
import type { Position } from '../transport/envelopes.ts'
import type { Lsn } from '../wal/lsn.ts'
import { scanBlocks, walkBlock, type ScannedBlock } from './block-scan.ts'
import { noteBlock, type ChangeLog, type IndexEntry, type Segment } from './change-log.ts'
import { damaged, SEGMENT_HEADER_BYTES, type Base } from './segment.ts'
import type { TransactionVisitor } from './transaction-walk.ts'

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
  const verdict = (chain: Uint8Array, place: Place): Search => (sameChain(chain, wanted.chain) ? { found: 'place', place } : { found: 'broken' })
  if (wanted.lsn > log.head.lsn) return { found: 'ahead' }
  if (wanted.lsn === log.head.lsn) return verdict(log.head.chain, endOf(log))
  if (wanted.lsn < log.manifest.genesis) return { found: 'broken' }
  const segment = log.segments.findLast(({ base }) => base.lsn <= wanted.lsn)
  if (!segment) return { found: 'too-old' }
  if (segment.base.lsn === wanted.lsn) return verdict(segment.base.chain, { offset: segment.start, skip: 0, after: position(segment.base) })
  try {
    const place = await findCommit(log, segment, wanted.lsn)
    return place ? verdict(place.after.chain, place) : { found: 'broken' }
  } catch (error) {
    // Retention was faster.
    if (codeOf(error) === 'POSITION_TOO_OLD') return { found: 'too-old' }
    throw error
  }
}

/** The newest of `candidates` that the log holds too. */
export async function lastShared(log: ChangeLog, candidates: readonly Position[]): Promise<Position | undefined> {
  for (const candidate of [...candidates].sort((a, b) => (a.lsn < b.lsn ? 1 : a.lsn > b.lsn ? -1 : 0)))
    if ((await findPosition(log, candidate)).found === 'place') return candidate
  return undefined
}

/**
 * Before the first transaction that committed at or after `micros`; the end of the log when there is none.
 * Throws POSITION_TOO_OLD when retention removes it meanwhile.
 */
export async function findTime(log: ChangeLog, micros: bigint): Promise<Place> {
  const end = endOf(log)
  if (log.head.time < micros) return end
  // Commit times are a little out of order; in headers they are the latest so far, hence in order.
  const late = log.segments.findIndex(({ base }) => base.time >= micros)
  for (const segment of log.segments.slice(Math.max(0, (late === -1 ? log.segments.length : late) - 1))) {
    const found = await search(log, segment, ({ before }) => before.time < micros, async ({ header, start }, walk, entered) => {
      // A block that only goes on with, or ends, an open transaction begins none.
      const begins = !header.beginsInside || header.transactions > 1 || (header.transactions === 1 && header.endsInside)
      if (!begins || (!header.endsInside && header.time < micros)) return undefined
      let before = position(entered)
      let place: Place | undefined
      await walk({
        begin: (_lsn, time, skip) => {
          if (time >= micros) place = { offset: segment.start + start, skip, after: before }
          return place !== undefined
        },
        commit: (lsn, chain) => {
          before = { lsn, chain: Buffer.from(chain) }
          return false
        },
      })
      return place
    })
    if (found) return found
    if (segment.start + segment.size >= end.offset) break
  }
  return end
}

/** The transaction before the newest one: what a replay of the newest is chained to. undefined when retention took it. */
export async function beforeHead(log: ChangeLog): Promise<Position | undefined> {
  const head = log.head.lsn
  const segment = log.segments.findLast(({ base }) => base.lsn < head)
  if (!segment) return undefined
  return search(log, segment, ({ before }) => before.lsn < head, async ({ header }, walk, entered) => {
    if (header.transactions === 0 || header.lsn < head) return undefined
    let before = position(entered)
    await walk({
      commit: (lsn, chain) => {
        if (lsn < head) before = { lsn, chain: Buffer.from(chain) }
        return lsn >= head
      },
    })
    return before
  })
}

/** After the commit at `wanted` in the segment; undefined when there is none. */
function findCommit(log: ChangeLog, segment: Segment, wanted: Lsn): Promise<Place | undefined> {
  return search<Place | false>(log, segment, ({ before }) => before.lsn < wanted, async ({ header, start, end }, walk) => {
    if (header.transactions === 0 || header.lsn < wanted) return undefined
    if (header.lsn === wanted && !header.endsInside) return { offset: segment.start + end, skip: 0, after: position(header) }
    let place: Place | undefined
    await walk({
      commit: (lsn, chain, skip) => {
        if (lsn === wanted) place = { offset: segment.start + start, skip, after: { lsn, chain: Buffer.from(chain) } }
        return lsn >= wanted
      },
    })
    return place ?? false
  }).then((place) => place || undefined)
}

type Walk = (visitor: TransactionVisitor) => Promise<void>

/**
 * Shows the segment's durable blocks, from the last index entry that `startsBefore` accepts, to `look` until it answers
 * something. `entered` is the transaction before the block.
 */
async function search<T>(
  log: ChangeLog,
  segment: Segment,
  startsBefore: (entry: IndexEntry) => boolean,
  look: (block: ScannedBlock, walk: Walk, entered: Base) => Promise<T | undefined>,
): Promise<T | undefined> {
  await using file = await openSegment(log, segment)
  const entry = (await indexOf(log, segment, file)).findLast(startsBefore)
  const start = entry?.offset ?? SEGMENT_HEADER_BYTES
  let entered = entry?.before ?? segment.base
  for await (const block of blocksOf(log, segment, file, start)) {
    const walk: Walk = async (visitor) => {
      if (!(await walkBlock(file, block, visitor))) throw damaged(segment.path, block.start)
    }
    const found = await look(block, walk, entered)
    if (found !== undefined) return found
    if (block.header.transactions > 0) entered = block.header
  }
  return undefined
}

async function openSegment(log: ChangeLog, segment: Segment): Promise<FileHandle> {
  try {
    return await open(segment.path, 'r')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw fromSystem(error, 'searching the change log')
    if (log.segments.includes(segment)) throw damaged(segment.path, 0, error)
    throw new BeyondError('POSITION_TOO_OLD', 'The log no longer keeps what was asked for: it was removed just now.')
  }
}

/** Blocks of whole durable transactions and marks. */
async function* blocksOf(log: ChangeLog, segment: Segment, file: FileHandle, start: number): AsyncGenerator<ScannedBlock> {
  const limit = Math.min(segment.size, log.end - segment.start)
  let reached = start
  for await (const block of scanBlocks(file, start, limit, false)) {
    yield block
    reached = block.end
  }
  if (reached < limit) throw damaged(segment.path, reached)
}

/** The sparse index of a segment, made from its block headers when it is first needed. */
async function indexOf(log: ChangeLog, segment: Segment, file: FileHandle): Promise<IndexEntry[]> {
  if (segment.index) return segment.index
  const built: Segment = { ...segment, index: [] }
  let before: Base = segment.base
  for await (const { header, start } of blocksOf(log, segment, file, SEGMENT_HEADER_BYTES)) {
    noteBlock(built, start, header, before)
    if (header.transactions > 0) before = header
  }
  segment.index = built.index
  log.noteIndexed(segment)
  return built.index!
}

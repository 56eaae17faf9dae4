/**
 * The change log: every transaction once, durable, in commit order. Owns the folder, the only writer of it.
 *
 * Appends are gathered into groups: while one group is being fsynced the next one fills, and each append resolves when
 * its group is durable. Readers (`log-cursor.ts`) see whole, durable transactions only, from memory when they are near
 * the end and from the files when not. Offsets are bytes since the oldest segment that was found at open; they are
 * stable for the life of the object and what lag is counted in.
 */
import { mkdir, open, readdir, rename, rm, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { BeyondError, fromSystem } from '../errors.ts'
import type { Logger } from '../logger.ts'
import type { Position } from '../transport/envelopes.ts'
import { maxLsn, type Lsn } from '../wal/lsn.ts'
import { encodeBlockHeader, type BlockHeader } from './block.ts'
import { readFully, scanBlocks } from './block-scan.ts'
import { syncDirectory } from './durable-file.ts'
import { genesisPosition, historyBytes, type Manifest } from './manifest.ts'
import { expiredSegments, type RetentionPolicy } from './retention.ts'
import { SchemaStore } from './schema-store.ts'
import { decodeSegmentHeader, encodeSegmentHeader, parseSegmentName, SEGMENT_HEADER_BYTES, segmentName, type Base } from './segment.ts'
import { TailCache, type TailBlock } from './tail-cache.ts'

export type ChangeLogOptions = {
  readonly directory: string
  readonly manifest: Manifest
  readonly logger: Logger
  /** A segment is closed at the first transaction boundary after this many bytes. */
  readonly segmentBytes: number
  /** Newest blocks that are kept in memory for readers near the end. */
  readonly tailBytes: number
}

/** What is appended: frames as they go on the wire, and what a block's header says of them. */
export type Append = {
  readonly frames: Buffer
  readonly beginsInside: boolean
  readonly endsInside: boolean
  readonly transactions: number
  readonly changes: number
  /** The last transaction that ends in `frames`; undefined when none does. */
  readonly last: Base | undefined
  readonly fingerprints: readonly bigint[]
}

export type Segment = {
  readonly path: string
  readonly base: Base
  /** Offset of the file's first byte. */
  readonly start: number
  /** Durable bytes of the file. */
  size: number
  /** Sparse: a block every INDEX_SPACING bytes, filled while appending or at the first search. */
  index: IndexEntry[] | undefined
}
/** A block that begins between transactions, at `offset` in the file, and the transaction before it. */
export type IndexEntry = { readonly offset: number; readonly before: Base }

export const INDEX_SPACING = 256 * 1024

type Pending = { readonly header: Omit<BlockHeader, 'payloadLength'>; readonly payload: Buffer; readonly resolve: () => void; readonly reject: (error: unknown) => void }

/** Offsets of whole, durable transactions end here; and the last of those transactions. */
type Head = Base & { readonly offset: number }

export class ChangeLog implements AsyncDisposable {
  readonly manifest: Manifest
  readonly schemas: SchemaStore
  readonly #options: ChangeLogOptions
  readonly #segments: Segment[]
  #file: FileHandle
  #head: Head
  /** Postgres has been read durably up to here. */
  #reached: Lsn
  /** The last transaction of all that was appended, durable or not; and whether another one is open. */
  #appended: Base
  #inside = false
  #pending: Pending[] = []
  #pendingBytes = 0
  #flushing: Promise<void> | undefined
  #failed: BeyondError | undefined
  readonly tail: TailCache
  readonly #listeners = new Set<() => void>()
  transactions = 0n
  changes = 0n

  private constructor(options: ChangeLogOptions, schemas: SchemaStore, segments: Segment[], file: FileHandle, end: { head: Head; reached: Lsn }) {
    this.manifest = options.manifest
    this.schemas = schemas
    this.#options = options
    this.#segments = segments
    this.#file = file
    this.#head = this.#appended = end.head
    this.#reached = end.reached
    this.tail = new TailCache(options.tailBytes)
  }

  /** Opens the log, cutting a torn tail. Throws LOG_CORRUPT when what was durable is not what was written. */
  static async open(options: ChangeLogOptions): Promise<ChangeLog> {
    const { directory, manifest, logger } = options
    await mkdir(directory, { recursive: true, mode: 0o700 })
    const schemas = await SchemaStore.open(directory)
    const segments = await findSegments(directory, manifest)
    const last = segments.at(-1)
    if (last === undefined) {
      const genesis = genesisPosition(manifest)
      const base = { lsn: genesis.lsn, endLsn: genesis.lsn, time: 0n, chain: Buffer.from(genesis.chain) }
      const { segment, file } = await createSegment(directory, manifest, base, 0)
      const head = { ...base, offset: segment.size }
      return new ChangeLog(options, schemas, [segment], file, { head, reached: base.lsn })
    }
    const file = await open(last.path, 'r+')
    try {
      const size = (await file.stat()).size
      let head: Base = last.base
      let reached = last.base.endLsn
      let valid = SEGMENT_HEADER_BYTES
      last.index = []
      for await (const { header, start, end } of scanBlocks(file, SEGMENT_HEADER_BYTES, size, true)) {
        noteBlock(last, start, header, head)
        if (header.kind === 'mark') reached = maxLsn(reached, header.lsn)
        else if (header.transactions > 0) {
          head = pick(header)
          reached = maxLsn(reached, header.endLsn)
        }
        if (!header.endsInside) valid = end
      }
      if (valid < size) {
        logger.warn({ segment: last.path, bytes: size - valid }, 'cut the torn tail of the change log')
        await file.truncate(valid)
        await file.sync()
        last.index = last.index.filter((entry) => entry.offset < valid)
      }
      last.size = valid
      return new ChangeLog(options, schemas, segments, file, { head: { ...head, offset: last.start + valid }, reached })
    } catch (error) {
      await file.close()
      throw error
    }
  }

  /** The newest durable transaction. */
  get head(): Base {
    return this.#head
  }

  /** Offset after the newest whole durable transaction: where readers that have everything stand. */
  get end(): number {
    return this.#head.offset
  }

  /** Postgres may forget everything before this LSN. */
  get reached(): Lsn {
    return this.#reached
  }

  /** Bytes that were appended and are not durable yet: what the source's window is counted in. */
  get pendingBytes(): number {
    return this.#pendingBytes
  }

  get segments(): readonly Segment[] {
    return this.#segments
  }

  get bytes(): number {
    return this.#segments.reduce((sum, segment) => sum + segment.size, 0)
  }

  /** Delivery can begin after this position. */
  get oldest(): Position {
    const { lsn, chain } = this.#segments[0].base
    return { lsn, chain }
  }

  /** Calls `listener` whenever more whole transactions are durable, or `reached` has moved; answers the way to stop it. */
  onAdvance(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Resolves when the frames are durable. Appends resolve in order. Rejects with DISK_FULL, NO_PERMISSION or INTERNAL. */
  append(what: Append): Promise<void> {
    const last = what.last ?? this.#appended
    this.#appended = last
    const { beginsInside, endsInside, transactions, changes, fingerprints } = what
    return this.#enqueue({ kind: 'data', beginsInside, endsInside, transactions, changes, ...pick(last), fingerprints }, what.frames)
  }

  /** Notes durably that Postgres has been read up to `lsn` without anything to log. */
  mark(lsn: Lsn): Promise<void> {
    const { time, chain } = this.#appended
    return this.#enqueue({ kind: 'mark', beginsInside: false, endsInside: false, transactions: 0, changes: 0, lsn, endLsn: lsn, time, chain, fingerprints: [] }, Buffer.alloc(0))
  }

  /** Forgets what was appended and is not durable, an open transaction included, after an error or a lost source. */
  async rollback(): Promise<void> {
    if (this.#failed !== undefined && this.#failed.code !== 'DISK_FULL') throw this.#failed
    await this.#flushing?.catch(() => {})
    this.#failed = undefined
    const segment = this.#segments[this.#segments.length - 1]
    segment.size = this.#head.offset - segment.start
    if (segment.index) segment.index = segment.index.filter((entry) => entry.offset < segment.size)
    this.tail.cut(this.#head.offset)
    this.#inside = false
    this.#appended = this.#head
    await this.#file.truncate(segment.size)
    await this.#file.datasync()
  }

  /** Removes segments that the policy no longer keeps. Answers how many. */
  async retain(policy: RetentionPolicy, consumers: readonly Lsn[], now: bigint): Promise<number> {
    const count = expiredSegments(this.#segments, policy, consumers, now)
    for (const segment of this.#segments.splice(0, count)) {
      await rm(segment.path, { force: true })
      this.#options.logger.info({ segment: segment.path, bytes: segment.size }, 'removed a segment of the change log')
    }
    if (count > 0) await syncDirectory(this.#options.directory)
    return count
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#flushing?.catch(() => {})
    await this.#file.close().catch(() => {})
  }

  #enqueue(header: Pending['header'], payload: Buffer): Promise<void> {
    if (this.#failed) return Promise.reject(this.#failed)
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#pending.push({ header, payload, resolve, reject })
    this.#pendingBytes += payload.length
    this.#flushing ??= this.#flush()
    return promise
  }

  /** Writes group after group until nothing is pending. One group is in flight at a time. */
  async #flush(): Promise<void> {
    // Appends of the same turn of the event loop belong to the same group.
    await Promise.resolve()
    while (this.#pending.length > 0) {
      const group = this.#pending
      this.#pending = []
      try {
        await this.#write(group)
      } catch (error) {
        this.#failed = fromSystem(error, 'writing the change log')
        for (const { reject } of [...group, ...this.#pending]) reject(this.#failed)
        this.#pending = []
        this.#pendingBytes = 0
        break
      }
      for (const { payload, resolve } of group) {
        this.#pendingBytes -= payload.length
        resolve()
      }
      for (const listener of this.#listeners) listener()
    }
    this.#flushing = undefined
  }

  async #write(group: readonly Pending[]): Promise<void> {
    let segment = this.#segments[this.#segments.length - 1]
    if (!this.#inside && segment.size >= this.#options.segmentBytes) segment = await this.#roll()
    const buffers: Buffer[] = []
    const written: TailBlock[] = []
    let offset = segment.start + segment.size
    for (const { header, payload } of group) {
      const head = encodeBlockHeader(header, payload)
      buffers.push(head, payload)
      const end = offset + head.length + payload.length
      written.push({ start: offset, end, header: { ...header, payloadLength: payload.length }, payload })
      offset = end
    }
    await writeAll(this.#file, buffers, segment.size)
    await this.#file.datasync()
    segment.size = offset - segment.start
    for (const block of written) this.#noteDurable(segment, block)
  }

  #noteDurable(segment: Segment, block: TailBlock): void {
    const { header, start, end } = block
    if (segment.index) noteBlock(segment, start - segment.start, header, this.#head)
    this.tail.push(block)
    this.#inside = header.endsInside
    this.transactions += BigInt(header.transactions)
    this.changes += BigInt(header.changes)
    const last: Base = header.transactions > 0 ? header : this.#head
    if (!header.endsInside) this.#head = { ...pick(last), offset: end }
    this.#reached = header.kind === 'mark' ? maxLsn(this.#reached, header.lsn) : maxLsn(this.#reached, last.endLsn)
  }

  async #roll(): Promise<Segment> {
    const previous = this.#segments[this.#segments.length - 1]
    // A segment without a transaction, marks only, would give its successor the same name.
    if (previous.base.lsn === this.#head.lsn) return previous
    const { segment, file } = await createSegment(this.#options.directory, this.manifest, pick(this.#head), previous.start + previous.size)
    await this.#file.close()
    this.#file = file
    this.#segments.push(segment)
    this.#head = { ...this.#head, offset: segment.start + segment.size }
    return segment
  }
}

function pick({ lsn, endLsn, time, chain }: Base): Base {
  return { lsn, endLsn, time, chain }
}

/** Adds a block to the sparse index, when it begins between transactions and the last entry is far enough back. */
export function noteBlock(segment: Segment, offset: number, header: BlockHeader, before: Base): void {
  const index = segment.index
  if (!index || header.beginsInside) return
  const previous = index.at(-1)
  if (previous === undefined || offset - previous.offset >= INDEX_SPACING) index.push({ offset, before: pick(before) })
}

async function findSegments(directory: string, manifest: Manifest): Promise<Segment[]> {
  const names = (await readdir(directory)).filter((name) => parseSegmentName(name) !== undefined).sort()
  const segments: Segment[] = []
  let start = 0
  for (const [i, name] of names.entries()) {
    const path = join(directory, name)
    await using file = await open(path, 'r')
    const header = Buffer.alloc(SEGMENT_HEADER_BYTES)
    await readFully(file, header, 0)
    const decoded = decodeSegmentHeader(header)
    if (!decoded || !decoded.history.equals(historyBytes(manifest)) || segmentName(decoded.base) !== name)
      throw new BeyondError('LOG_CORRUPT', `${path} is not a segment of this change log: restore it, or start a new history with --new-history.`)
    const size = (await file.stat()).size
    segments.push({ path, base: decoded.base, start, size, index: i === names.length - 1 ? [] : undefined })
    start += size
  }
  return segments
}

/** The file is made beside and renamed, so that a segment always has its header. */
async function createSegment(directory: string, manifest: Manifest, base: Base, start: number): Promise<{ segment: Segment; file: FileHandle }> {
  const path = join(directory, segmentName(base))
  const file = await open(`${path}.new`, 'w+', 0o600)
  try {
    await file.write(encodeSegmentHeader(historyBytes(manifest), base))
    await file.sync()
    await rename(`${path}.new`, path)
    await syncDirectory(directory)
  } catch (error) {
    await file.close()
    throw error
  }
  return { segment: { path, base, start, size: SEGMENT_HEADER_BYTES, index: [] }, file }
}

/** One write for a whole group, however large. writev takes at most 1024 buffers and may stop short. */
async function writeAll(file: FileHandle, buffers: readonly Buffer[], position: number): Promise<void> {
  const MAX_BUFFERS = 1024
  for (let first = 0; first < buffers.length; first += MAX_BUFFERS) {
    let rest = buffers.slice(first, first + MAX_BUFFERS)
    while (rest.length > 0) {
      const { bytesWritten } = await file.writev(rest, position)
      position += bytesWritten
      let skip = bytesWritten
      let i = 0
      while (i < rest.length && skip >= rest[i].length) skip -= rest[i++].length
      rest = rest.slice(i)
      if (skip > 0) rest[0] = rest[0].subarray(skip)
      else if (bytesWritten === 0 && rest.every((buffer) => buffer.length === 0)) rest = []
    }
  }
}

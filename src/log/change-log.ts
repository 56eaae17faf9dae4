/**
 * The change log: every transaction once, durable, in commit order. Owns the folder, the only writer of it.
 *
 * Appends are gathered into groups: while one group is being fsynced the next one fills, and each append resolves when
 * its group is durable. Readers (`log-cursor.ts`) see whole, durable transactions only, from memory when they are near
 * the end and from the files when not. Offsets are bytes since the oldest segment that was found at open; they are
 * stable for the life of the object and what lag is counted in.
 */
import { constants } from 'node:fs'
import { open, readdir, rename, rm, type FileHandle } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { BeyondError, fromSystem } from '../errors.ts'
import type { Logger } from '../logger.ts'
import type { Position } from '../transport/envelopes.ts'
import { formatLsn, maxLsn, type Lsn } from '../wal/lsn.ts'
import { encodeBlockHeader, MAX_FINGERPRINTS, type BlockHeader } from './block.ts'
import { readFully, scanBlocks } from './block-scan.ts'
import { makeDirectoryDurably, syncDirectory, writeAll } from '../durable-file.ts'
import { genesisPosition, genesisReached, historyBytes, type Manifest } from './manifest.ts'
import { expiredSegments, type RetentionPolicy } from './retention.ts'
import { SchemaStore } from './schema-store.ts'
import { damaged, decodeSegmentHeader, encodeSegmentHeader, parseSegmentName, SEGMENT_HEADER_BYTES, segmentName, type Base } from './segment.ts'
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
  /** Latest commit time of the transactions that end in `frames`, which need not be the last one's; 0 when none is known. */
  readonly latestTime: bigint
  readonly fingerprints: readonly bigint[]
  /** Relation versions that are new with these frames: durable before them. */
  readonly schemas: readonly { readonly fingerprint: bigint; readonly schema: string }[]
}

export type Segment = {
  readonly path: string
  readonly base: Base
  /** Postgres had been read up to here when it began. */
  readonly reached: Lsn
  /** Offset of the file's first byte. */
  readonly start: number
  /** Durable bytes of the file. */
  size: number
  /** Sparse: a block every INDEX_SPACING bytes, filled while appending or at the first search. */
  index: IndexEntry[] | undefined
}
/** A block that begins between transactions, at `offset` in the file, and the transaction before it. */
export type IndexEntry = { readonly offset: number; readonly before: Base }

/** A write returns when it is durable: half the ways through the thread pool of a write and an fdatasync after it. */
const DURABLE = constants.O_RDWR | constants.O_DSYNC

export const INDEX_SPACING = 256 * 1024
/** Only this many segments keep their index in memory; those of the others are built again when they are searched. */
const INDEXED_SEGMENTS = 64

type Pending = {
  readonly header: Omit<BlockHeader, 'payloadLength'>
  readonly payload: Buffer
  readonly schemas: Append['schemas']
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

/** Offsets of whole, durable transactions end here; and the last of those transactions. */
type Head = Base & { readonly offset: number }

/** What durable blocks hold, in order; the last one may end inside a transaction. */
type Written = { readonly last: Base; readonly inside: boolean; readonly transactions: bigint; readonly changes: bigint }

export class ChangeLog implements AsyncDisposable {
  readonly manifest: Manifest
  readonly schemas: SchemaStore
  readonly #options: ChangeLogOptions
  readonly #segments: Segment[]
  #file: FileHandle
  #head: Head
  /** Postgres has been read durably up to here. */
  #reached: Lsn
  /** Of everything durable, and what of it readers don't see yet because a transaction is open. */
  #written: Written
  /** The last transaction of all that was appended, durable or not; and whether another one is open. */
  #appended: { readonly last: Base; readonly inside: boolean }
  #pending: Pending[] = []
  #pendingBytes = 0
  #flushing: Promise<void> | undefined
  #failed: BeyondError | undefined
  #closed = false
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
    this.#head = end.head
    this.#written = { last: end.head, inside: false, transactions: 0n, changes: 0n }
    this.#appended = { last: end.head, inside: false }
    this.#reached = end.reached
    this.tail = new TailCache(options.tailBytes)
  }

  /**
   * Opens the log, cutting a torn tail. Throws LOG_CORRUPT when what was durable is not what was written. A torn tail
   * can't be told from damage to the newest segment: the caller compares `reached` with what the slot was told.
   */
  static async open(options: ChangeLogOptions): Promise<ChangeLog> {
    try {
      return await ChangeLog.#open(options)
    } catch (error) {
      throw fromSystem(error, 'opening the change log')
    }
  }

  static async #open(options: ChangeLogOptions): Promise<ChangeLog> {
    const { directory, manifest, logger } = options
    await makeDirectoryDurably(directory)
    const schemas = await SchemaStore.open(directory)
    const segments = await findSegments(directory, manifest)
    const last = segments.at(-1)
    if (last === undefined) {
      const genesis = genesisPosition(manifest)
      const reached = genesisReached(manifest)
      const base = { lsn: genesis.lsn, endLsn: reached, time: 0n, chain: Buffer.from(genesis.chain) }
      const { segment, file } = await createSegment(directory, manifest, base, reached, 0)
      return new ChangeLog(options, schemas, [segment], file, { head: { ...base, offset: segment.size }, reached })
    }
    const file = await open(last.path, DURABLE)
    try {
      const { size } = await file.stat()
      const index: IndexEntry[] = []
      last.index = index
      // What counts ends where no transaction is open.
      let head: Base = last.base
      let reached = last.reached
      let valid = SEGMENT_HEADER_BYTES
      let indexed = 0
      let newest = head
      let read = reached
      for await (const { header, start, end } of scanBlocks(file, SEGMENT_HEADER_BYTES, size, true)) {
        noteBlock(last, start, header, newest)
        if (header.transactions > 0) newest = pick(header)
        read = maxLsn(read, header.kind === 'mark' ? header.lsn : newest.endLsn)
        if (header.endsInside) continue
        head = newest
        reached = read
        valid = end
        indexed = index.length
      }
      if (valid < size) {
        logger.warn({ segment: last.path, bytes: size - valid, reached: formatLsn(reached) }, 'cut the torn tail of the change log')
        await file.truncate(valid)
        index.length = indexed
      }
      // A killed process may have left bytes that are written and not yet durable: they count from now on.
      await file.sync()
      await syncDirectory(directory)
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

  /** Postgres may forget everything before this LSN: what comes before it is durable here, or was nothing to log. */
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

  /**
   * Resolves when the frames are durable. Appends resolve in order. Rejects with DISK_FULL, NO_PERMISSION or INTERNAL;
   * from then on every append does, until `rollback` has succeeded.
   */
  append(what: Append): Promise<void> {
    const { beginsInside, endsInside, transactions, changes, fingerprints, frames, schemas } = what
    const before = this.#appended
    if (beginsInside !== before.inside || (what.last !== undefined && what.last.lsn <= before.last.lsn) || (what.last === undefined) !== (transactions === 0) || fingerprints.length > MAX_FINGERPRINTS)
      return Promise.reject(new BeyondError('INTERNAL', `What is appended at ${formatLsn(what.last?.lsn ?? before.last.lsn)} does not follow what the change log has at ${formatLsn(before.last.lsn)}.`))
    // Commit times may go back a little, and are unknown (0) for messages: searches and retention need them in order.
    const time = what.latestTime > before.last.time ? what.latestTime : before.last.time
    const last = what.last ? { ...keep(what.last), time } : before.last
    const appended = this.#enqueue({ kind: 'data', beginsInside, endsInside, transactions, changes, ...last, fingerprints }, frames, schemas)
    if (!this.#failed) this.#appended = { last, inside: endsInside }
    return appended
  }

  /**
   * Notes durably that Postgres has been read up to `lsn` without anything to log. Does nothing when that is known
   * already or while a transaction is open: what may be confirmed is `reached`.
   */
  mark(lsn: Lsn): Promise<void> {
    if (this.#appended.inside || lsn <= this.#reached) return this.#failed ? Promise.reject(this.#failed) : Promise.resolve()
    const { time, chain } = this.#appended.last
    return this.#enqueue({ kind: 'mark', beginsInside: false, endsInside: false, transactions: 0, changes: 0, lsn, endLsn: lsn, time, chain, fingerprints: [] }, Buffer.alloc(0), [])
  }

  /**
   * Forgets an open transaction, and what was appended and did not become durable, after an error or a lost source.
   * Waits for the group in flight; appends are refused until it is done. Throws what the disk says: DISK_FULL may be
   * tried again, after any other failure what the disk holds is unknown and the log has to be opened anew.
   */
  async rollback(): Promise<void> {
    while (this.#flushing) await this.#flushing
    if (this.#failed !== undefined && this.#failed.code !== 'DISK_FULL') throw this.#failed
    this.#failed = new BeyondError('INTERNAL', 'The change log is being rolled back.')
    const segment = this.#segments[this.#segments.length - 1]
    try {
      await this.#file.truncate(this.#head.offset - segment.start)
      await this.#file.datasync()
    } catch (error) {
      throw (this.#failed = fromSystem(error, 'rolling back the change log'))
    }
    segment.size = this.#head.offset - segment.start
    if (segment.index) segment.index = segment.index.filter((entry) => entry.offset < segment.size)
    this.tail.cut(this.#head.offset)
    this.#written = { last: pick(this.#head), inside: false, transactions: 0n, changes: 0n }
    this.#appended = { last: pick(this.#head), inside: false }
    this.#failed = undefined
  }

  /** Removes segments that the policy no longer keeps. Answers how many. */
  async retain(policy: RetentionPolicy, consumers: readonly Lsn[], now: bigint): Promise<number> {
    // Oldest first and one by one durably: what is left after a crash never has a gap.
    let count = 0
    for (; this.#keepsHead() && expiredSegments(this.#segments, policy, consumers, now) > 0; count++) {
      // First out of the list, so that nobody goes looking for the file.
      const segment = this.#segments.shift()!
      try {
        await rm(segment.path, { force: true })
        await syncDirectory(this.#options.directory)
      } catch (error) {
        this.#segments.unshift(segment)
        throw fromSystem(error, 'removing old segments of the change log')
      }
      this.#options.logger.info({ segment: segment.path, bytes: segment.size }, 'removed a segment of the change log')
    }
    return count
  }

  /** Whether the newest transaction stays when the oldest segment goes: a restart compares it with what Postgres has there. */
  #keepsHead(): boolean {
    const { lsn } = this.#head
    return lsn === this.manifest.genesis || (this.#segments.length > 1 && this.#segments[1].base.lsn < lsn)
  }

  /** Waits for the group in flight. Appends are refused from then on; disposing twice is harmless. */
  async [Symbol.asyncDispose](): Promise<void> {
    while (this.#flushing) await this.#flushing
    if (this.#closed) return
    this.#closed = true
    this.#failed ??= new BeyondError('SHUTDOWN', 'The change log is closed.')
    await this.#file.close().catch(() => {})
  }

  /** Bounds the memory that sparse indexes take: the one of the oldest other segment goes when there are too many. */
  noteIndexed(segment: Segment): void {
    const others = this.#segments.filter((other) => other.index !== undefined && other !== segment)
    if (others.length >= INDEXED_SEGMENTS) others[0].index = undefined
  }

  #enqueue(header: Pending['header'], payload: Buffer, schemas: Append['schemas']): Promise<void> {
    if (this.#failed) return Promise.reject(this.#failed)
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    // The failure of a group reaches each append of it, and some of them nobody may wait for any more.
    promise.catch(() => {})
    this.#pending.push({ header, payload, schemas, resolve, reject })
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
        const failed = [...group, ...this.#pending]
        this.#pending = []
        this.#pendingBytes = 0
        // What an fsync refused may stand in the file all the same: the next open must not take it for durable.
        await this.#file.truncate(this.#segments[this.#segments.length - 1].size).catch(() => {})
        for (const { reject } of failed) reject(this.#failed)
        break
      }
      for (const { payload, resolve } of group) {
        this.#pendingBytes -= payload.length
        resolve()
      }
      this.#tell()
    }
    this.#flushing = undefined
  }

  /** A reader's fault must not stop the writer. */
  #tell(): void {
    for (const listener of this.#listeners) {
      try {
        listener()
      } catch (error) {
        this.#options.logger.error({ err: error }, 'a reader of the change log failed')
      }
    }
  }

  async #write(group: readonly Pending[]): Promise<void> {
    for (const { schemas } of group) for (const { fingerprint, schema } of schemas) await this.schemas.add(fingerprint, schema)
    let segment = this.#segments[this.#segments.length - 1]
    if (!this.#written.inside && segment.size >= this.#options.segmentBytes) segment = await this.#roll()
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
    segment.size = offset - segment.start
    for (const block of written) this.#noteDurable(segment, block)
  }

  #noteDurable(segment: Segment, block: TailBlock): void {
    const { header, start, end } = block
    const { last: before, transactions, changes } = this.#written
    noteBlock(segment, start - segment.start, header, before)
    this.tail.push(block)
    const last = header.transactions > 0 ? pick(header) : before
    this.#written = { last, inside: header.endsInside, transactions: transactions + BigInt(header.transactions), changes: changes + BigInt(header.changes) }
    // Until the open transaction is whole, an open or a rollback would cut this block off again.
    if (header.endsInside) return
    this.transactions += this.#written.transactions
    this.changes += this.#written.changes
    this.#written = { ...this.#written, transactions: 0n, changes: 0n }
    this.#head = { ...last, offset: end }
    this.#reached = maxLsn(this.#reached, header.kind === 'mark' ? header.lsn : last.endLsn)
  }

  async #roll(): Promise<Segment> {
    const previous = this.#segments[this.#segments.length - 1]
    // Nothing was read since it began (a message has no end of its own): its successor would have the same name.
    if (segmentName(this.#reached) === basename(previous.path)) return previous
    const { segment, file } = await createSegment(this.#options.directory, this.manifest, pick(this.#head), this.#reached, previous.start + previous.size)
    const old = this.#file
    this.#file = file
    this.#segments.push(segment)
    this.#head = { ...this.#head, offset: segment.start + segment.size }
    this.noteIndexed(segment)
    await old.close()
    return segment
  }
}

function pick({ lsn, endLsn, time, chain }: Base): Base {
  return { lsn, endLsn, time, chain }
}

/** With the chain hash in memory of its own: a view would hold the whole batch that it came with for as long as it is kept. */
function keep(base: Base): Base {
  const chain = Buffer.allocUnsafeSlow(base.chain.length)
  chain.set(base.chain)
  return { ...pick(base), chain }
}

/** Adds a block to the sparse index, when it begins between transactions and the last entry is far enough back. */
export function noteBlock(segment: Segment, offset: number, header: BlockHeader, before: Base): void {
  const index = segment.index
  if (!index || header.beginsInside) return
  const previous = index.at(-1)
  if (previous === undefined || offset - previous.offset >= INDEX_SPACING) index.push({ offset, before: keep(before) })
}

async function findSegments(directory: string, manifest: Manifest): Promise<Segment[]> {
  const files = await readdir(directory)
  for (const name of files) if (name.endsWith('.log.new')) await rm(join(directory, name), { force: true })
  const names = files.filter((name) => parseSegmentName(name) !== undefined).sort()
  const segments: Segment[] = []
  let start = 0
  for (const name of names) {
    const path = join(directory, name)
    await using file = await open(path, 'r')
    const header = Buffer.alloc(SEGMENT_HEADER_BYTES)
    const decoded = (await readFully(file, header, 0)) === header.length ? decodeSegmentHeader(header) : undefined
    if (!decoded) throw damaged(path, 0)
    const { base, reached, history } = decoded
    if (!history.equals(historyBytes(manifest)) || segmentName(reached) !== name || base.lsn < (segments.at(-1)?.base.lsn ?? 0n))
      throw new BeyondError('LOG_CORRUPT', `${path} is not a segment of this change log: restore it, or start a new history with --new-history.`)
    const { size } = await file.stat()
    segments.push({ path, base, reached, start, size, index: undefined })
    start += size
  }
  return segments
}

/** The file is made beside and renamed, so that a segment always has its header. */
async function createSegment(directory: string, manifest: Manifest, base: Base, reached: Lsn, start: number): Promise<{ segment: Segment; file: FileHandle }> {
  const path = join(directory, segmentName(reached))
  const file = await open(`${path}.new`, DURABLE | constants.O_CREAT | constants.O_TRUNC, 0o600)
  try {
    await writeAll(file, [encodeSegmentHeader({ history: historyBytes(manifest), base, reached })], 0)
    await file.sync()
    await rename(`${path}.new`, path)
    await syncDirectory(directory)
  } catch (error) {
    await file.close()
    await rm(`${path}.new`, { force: true })
    throw error
  }
  return { segment: { path, base, reached, start, size: SEGMENT_HEADER_BYTES, index: [] }, file }
}

/**
 * Reads the log from a place on: from memory when the block is there, else from the file, in pieces of bounded size.
 * Only whole, durable transactions are ever read. Slow readers cost reads of the file, never memory.
 */
import { open, type FileHandle } from 'node:fs/promises'
import { BeyondError, fromSystem } from '../errors.ts'
import type { Position } from '../transport/envelopes.ts'
import { addToChecksum, blockLengths, BLOCK_HEADER_BYTES, decodeBlockHeader, payloadChecksum, type BlockHeader } from './block.ts'
import { payloadIsValid, readFully } from './block-scan.ts'
import type { ChangeLog, Segment } from './change-log.ts'
import type { Place } from './log-search.ts'
import { damaged, SEGMENT_HEADER_BYTES } from './segment.ts'

/** What is read from a file at once, and the largest piece that comes from one. */
const PIECE_BYTES = 256 * 1024

export type Piece = {
  /** Protocol frames. A block larger than a piece comes in several, cut anywhere. */
  readonly bytes: Buffer
  /** Relation versions that the frames of the whole block use. */
  readonly fingerprints: readonly bigint[]
  /** The last transaction that is whole with this piece; undefined while inside the first one. */
  readonly position: Position | undefined
  readonly time: bigint
}

type Whole = { readonly header: BlockHeader; readonly payload: Buffer; readonly end: number }

/** A block that is larger than a piece, in the middle of being read. */
type Large = { readonly header: BlockHeader; readonly stored: number; checksum: number; done: number; readonly payloadStart: number; readonly segment: Segment }

export class LogCursor implements AsyncDisposable {
  readonly #log: ChangeLog
  #offset: number
  #skip: number
  /** Chain hash after what was read: at the border of two segments the next one has to go on from it. */
  #chain: Uint8Array
  #file: { readonly handle: FileHandle; readonly segment: Segment } | undefined
  #chunk: Buffer | undefined
  #chunkStart = 0
  #chunkLength = 0
  #large: Large | undefined

  constructor(log: ChangeLog, place: Place) {
    this.#log = log
    this.#offset = place.offset
    this.#skip = place.skip
    this.#chain = place.after.chain
  }

  /** Offset in the log of what will be read next. */
  get offset(): number {
    return this.#offset
  }

  /** The next piece, if it is in memory. */
  take(): Piece | undefined {
    while (this.#large === undefined && this.#offset < this.#log.end) {
      const block = this.#log.tail.at(this.#offset)
      if (block === undefined) return undefined
      // At the end of a segment the next block begins behind the header of the next one.
      if (block.start - this.#offset > SEGMENT_HEADER_BYTES) return undefined
      if (block.start >= this.#log.end) return undefined
      this.#release()
      const piece = this.#pieceOf(block)
      if (piece) return piece
    }
    return undefined
  }

  /**
   * The next piece, from memory or file; undefined when everything that is durable was read. Throws POSITION_TOO_OLD when
   * retention has removed what comes next, LOG_CORRUPT when the file does not hold what was written.
   */
  async read(): Promise<Piece | undefined> {
    for (;;) {
      const piece = this.take()
      if (piece) return piece
      if (this.#offset >= this.#log.end) {
        this.#release()
        return undefined
      }
      try {
        const fromFile = await this.#readFile()
        if (fromFile) return fromFile
      } catch (error) {
        throw fromSystem(error, 'reading the change log')
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#chunk = undefined
    await this.#closeFile()
  }

  /** Marks and blocks that are skipped whole give no piece. */
  #pieceOf(block: Whole): Piece | undefined {
    const bytes = this.#skip > 0 ? block.payload.subarray(this.#skip) : block.payload
    this.#skip = 0
    this.#offset = block.end
    const { header } = block
    if (header.kind === 'data') this.#chain = header.chain
    if (bytes.length === 0) return undefined
    return { bytes, fingerprints: header.fingerprints, position: header.transactions > 0 ? header : undefined, time: header.time }
  }

  async #readFile(): Promise<Piece | undefined> {
    const segment = this.#segment()
    const handle = await this.#open(segment)
    if (!handle) return undefined
    if (this.#large) return this.#readLarge(handle)
    const position = Math.max(this.#offset - segment.start, SEGMENT_HEADER_BYTES)
    const limit = Math.min(segment.size, this.#log.end - segment.start)
    if (position >= limit) {
      // Nothing more to see in this file: the log goes on in the next one, or, behind a transaction that is still open
      // (`limit`, not the size of the file), here when that is whole.
      this.#offset = segment.start + limit
      return undefined
    }
    const fixed = await this.#bytes(handle, position, BLOCK_HEADER_BYTES, limit)
    const lengths = fixed && blockLengths(fixed)
    if (!lengths || position + lengths.header + lengths.payload > limit) throw damaged(segment.path, position)
    if (lengths.header + lengths.payload <= PIECE_BYTES) {
      const block = await this.#bytes(handle, position, lengths.header + lengths.payload, limit)
      const head = block?.subarray(0, lengths.header)
      const header = head && decodeBlockHeader(head)
      if (!header) throw damaged(segment.path, position)
      const payload = block!.subarray(lengths.header)
      if (addToChecksum(0, payload) !== payloadChecksum(head)) throw damaged(segment.path, position)
      return this.#pieceOf({ header, payload, end: segment.start + position + block!.length })
    }
    const head = Buffer.allocUnsafe(lengths.header)
    const header = (await readFully(handle, head, position)) === head.length ? decodeBlockHeader(head) : undefined
    if (!header) throw damaged(segment.path, position)
    const payloadStart = position + head.length
    const stored = payloadChecksum(head)
    // It is given out in pieces, which may hold whole frames: only when all of it is known to be good.
    if (!(await payloadIsValid(handle, payloadStart, payloadStart + header.payloadLength, stored))) throw damaged(segment.path, position)
    this.#large = { header, stored, checksum: 0, done: 0, payloadStart, segment }
    return this.#readLarge(handle)
  }

  async #readLarge(handle: FileHandle): Promise<Piece | undefined> {
    const large = this.#large!
    const { header, segment } = large
    const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, header.payloadLength - large.done))
    if ((await readFully(handle, piece, large.payloadStart + large.done)) < piece.length) throw damaged(segment.path, large.payloadStart)
    large.checksum = addToChecksum(large.checksum, piece)
    large.done += piece.length
    const last = large.done === header.payloadLength
    // Read twice, and it may have changed between: the last piece completes the transaction or not.
    if (last && large.checksum !== large.stored) throw damaged(segment.path, large.payloadStart)
    const skipped = Math.min(this.#skip, piece.length)
    this.#skip -= skipped
    if (last) {
      this.#large = undefined
      this.#chain = header.chain
      this.#offset = segment.start + large.payloadStart + header.payloadLength
    }
    if (skipped === piece.length) return undefined
    return {
      bytes: piece.subarray(skipped),
      fingerprints: header.fingerprints,
      position: last && header.transactions > 0 ? header : undefined,
      time: header.time,
    }
  }

  /** The segment to read from. At its beginning the history has to go on where the one before it ended. */
  #segment(): Segment {
    if (this.#large) return this.#large.segment
    const { segments } = this.#log
    let segment = segments.findLast(({ start }) => start <= this.#offset)
    // Segments that were removed and held nothing but marks are no loss.
    if (!segment && this.#follows(segments[0])) segment = segments[0]
    if (!segment)
      throw new BeyondError('POSITION_TOO_OLD', 'The log no longer keeps what follows: it was removed while this subscriber was behind. Subscribe from the beginning.')
    if (this.#offset <= segment.start && !this.#follows(segment)) throw damaged(segment.path, 0)
    this.#offset = Math.max(this.#offset, segment.start)
    return segment
  }

  #follows({ base }: Segment): boolean {
    return Buffer.compare(base.chain, this.#chain) === 0
  }

  /** undefined when the segment was removed meanwhile. */
  async #open(segment: Segment): Promise<FileHandle | undefined> {
    if (this.#file?.segment === segment) return this.#file.handle
    await this.#closeFile()
    try {
      const handle = await open(segment.path, 'r')
      this.#file = { handle, segment }
      return handle
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      if (this.#log.segments.includes(segment)) throw damaged(segment.path, 0, error)
      return undefined
    }
  }

  /** A view of the file, read ahead in chunks. A fresh chunk each time: views of the old one may still be on their way out. */
  async #bytes(handle: FileHandle, position: number, length: number, limit: number): Promise<Buffer | undefined> {
    if (position + length > limit) return undefined
    if (!this.#chunk || position < this.#chunkStart || position + length > this.#chunkStart + this.#chunkLength) {
      this.#chunk = Buffer.allocUnsafe(Math.min(PIECE_BYTES, limit - position))
      this.#chunkStart = position
      this.#chunkLength = await readFully(handle, this.#chunk, position)
      if (this.#chunkLength < length) return undefined
    }
    return this.#chunk.subarray(position - this.#chunkStart, position - this.#chunkStart + length)
  }

  #release(): void {
    this.#chunk = undefined
    if (this.#file) void this.#closeFile()
  }

  async #closeFile(): Promise<void> {
    const file = this.#file
    this.#file = undefined
    this.#chunk = undefined
    await file?.handle.close()
  }
}

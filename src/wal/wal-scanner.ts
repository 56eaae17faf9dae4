/**
 * Follows WAL record by record and says how far it is whole: page headers, the chain of back links, and the CRC of every
 * record. The same rules by which Postgres's recovery finds the end of WAL. Pure: the caller brings bytes.
 * Source: src/backend/access/transam/xlogreader.c, src/include/access/xlogrecord.h
 *
 * Bytes come in the order of the WAL and are looked at once. What is not there yet is no fault: `scan` goes on where it
 * was when more of the same segment, or the next one, is given.
 */
import { crc32cFinish, crc32cUpdate, CRC32C_INIT } from './crc32c.ts'
import { toLsn, type Lsn } from './lsn.ts'
import {
  checkPageHeader,
  LONG_HEADER_BYTES,
  PAGE_BYTES,
  pageFlag,
  pageFlags,
  pageHeaderBytes,
  pageRemaining,
  pageTimeline,
  type PageFault,
} from './wal-page.ts'

const RECORD_HEADER_BYTES = 24
/** The checksum covers the header up to itself. */
const CRC_OFFSET = 20
const ALIGNMENT = 8
/** XLogRecordMaxSize */
const MAX_RECORD_BYTES = 1020 * 1024 * 1024
const MAX_BUILTIN_RMGR = 21
const MIN_CUSTOM_RMGR = 128
const RMGR_XLOG = 0
const XLOG_SWITCH = 0x40

export type WalFault =
  | PageFault
  /** Shorter than a header. Zero is how WAL ends normally. */
  | 'length'
  | 'resource-manager'
  | 'back-link'
  | 'checksum'
  /** A page that should go on with a record doesn't say so, or says another length. */
  | 'continuation'

export type ScannerOptions = {
  readonly systemId: bigint
  readonly segmentBytes: number
  /** Of the files that are scanned. */
  readonly timeline: number
  /** Where to begin: the start of a segment, or of a record. */
  readonly start: Lsn
  /** Start of the record before; unknown: the first back link is taken as it is. */
  readonly previous?: Lsn
}

/** Between records, inside one, or at a fault, which is where WAL ends as long as no other bytes come. */
type Progress =
  | { readonly at: 'boundary' }
  /** The tail of a record whose beginning is not known: stepped over, unchecked. */
  | { readonly at: 'unknown'; remaining: number }
  | { readonly at: 'record'; readonly start: Lsn; readonly length: number; done: number; crc: number }

export class WalScanner {
  readonly #options: ScannerOptions
  readonly #header = Buffer.alloc(RECORD_HEADER_BYTES)
  #progress: Progress = { at: 'boundary' }
  /** Of the next byte to look at. Behind a page header that was checked. */
  #position: Lsn
  #previous: Lsn | undefined
  #minTimeline = 1
  #validEnd: Lsn
  #lastRecord: Lsn | undefined
  #records = 0
  #fault: { readonly kind: WalFault; readonly at: Lsn } | undefined

  constructor(options: ScannerOptions) {
    this.#options = options
    this.#position = this.#validEnd = options.start
    this.#previous = options.previous
  }

  /** After the last record that is whole and right, padding included: where the next one would begin. */
  get validEnd(): Lsn {
    return this.#validEnd
  }

  /** Start of that record. */
  get lastRecord(): Lsn | undefined {
    return this.#lastRecord
  }

  get records(): number {
    return this.#records
  }

  /** What is wrong with the bytes after `validEnd`; undefined: nothing is, they have yet to come. */
  get fault(): { readonly kind: WalFault; readonly at: Lsn } | undefined {
    return this.#fault
  }

  /** Of the next byte that `scan` wants. */
  get position(): Lsn {
    return this.#position
  }

  /**
   * Looks at `bytes`, which begin at `address`, at or before `position` and at a page border. Answers whether all is
   * right so far. After a fault the scanner stays where it is.
   */
  scan(bytes: Buffer, address: Lsn): boolean {
    const end = address + BigInt(bytes.length)
    while (this.#fault === undefined && this.#position < end) {
      const page = this.#position - (this.#position % BigInt(PAGE_BYTES))
      const pageAt = Number(page - address)
      const available = Math.min(PAGE_BYTES, bytes.length - pageAt)
      const before = this.#position
      if (this.#position === page) this.#enterPage(bytes, pageAt, toLsn(page), available)
      else this.#onPage(bytes, pageAt, toLsn(page), available)
      // More of this page has to come.
      if (this.#position === before) break
    }
    return this.#fault === undefined
  }

  #fail(kind: WalFault, at: Lsn): void {
    this.#fault = { kind, at }
  }

  #enterPage(bytes: Buffer, pageAt: number, page: Lsn, available: number): void {
    if (available < LONG_HEADER_BYTES) return
    const { systemId, segmentBytes, timeline } = this.#options
    const fault = checkPageHeader(bytes, pageAt, { address: page, systemId, segmentBytes, minTimeline: this.#minTimeline, maxTimeline: timeline })
    if (fault) return this.#fail(fault, page)
    const flags = pageFlags(bytes, pageAt)
    const remaining = pageRemaining(bytes, pageAt)
    const progress = this.#progress
    // A record was cut off by a crash, and this page says so: what follows begins anew.
    if (progress.at !== 'boundary' && flags & pageFlag.firstIsOverwrite) this.#progress = { at: 'boundary' }
    else if (progress.at === 'record') {
      if (!(flags & pageFlag.firstIsContinuation) || remaining !== progress.length - progress.done) return this.#fail('continuation', page)
    } else if (progress.at === 'unknown') {
      if (!(flags & pageFlag.firstIsContinuation) || remaining !== progress.remaining) return this.#fail('continuation', page)
    } else if (flags & pageFlag.firstIsContinuation) {
      // Only a scan that begins here may meet a record that it has not seen the beginning of.
      if (this.#previous !== undefined || this.#records > 0 || remaining === 0) return this.#fail('continuation', page)
      this.#progress = { at: 'unknown', remaining }
    }
    this.#minTimeline = pageTimeline(bytes, pageAt)
    this.#position = toLsn(page + BigInt(pageHeaderBytes(flags)))
  }

  #onPage(bytes: Buffer, pageAt: number, page: Lsn, available: number): void {
    let offset = Number(this.#position - page)
    while (this.#fault === undefined && offset < available) {
      const progress = this.#progress
      let next: number | undefined
      if (progress.at === 'boundary') next = this.#beginRecord(bytes, pageAt, page, offset, available)
      else if (progress.at === 'unknown') next = this.#stepOver(progress, page, offset, available)
      else next = this.#continueRecord(progress, bytes, pageAt, page, offset, available)
      if (next === undefined || next === offset) break
      offset = next
      this.#position = toLsn(page + BigInt(offset))
      // Behind a segment switch the rest of the segment is empty.
      if (offset > PAGE_BYTES) return
    }
  }

  /** Lengths are aligned, so a record's first four bytes are on one page always; the rest of its header may not be. */
  #beginRecord(bytes: Buffer, pageAt: number, page: Lsn, offset: number, available: number): number | undefined {
    if (available - offset < 4) return undefined
    const start = toLsn(page + BigInt(offset))
    const length = bytes.readUInt32LE(pageAt + offset)
    if (length < RECORD_HEADER_BYTES || length > MAX_RECORD_BYTES) {
      this.#fail('length', start)
      return undefined
    }
    // The whole record, when it is all on this page: no state to keep.
    if (offset + length <= available) {
      if (!this.#checkHeader(bytes, pageAt + offset, start)) return undefined
      const at = pageAt + offset
      let crc = crc32cUpdate(CRC32C_INIT, bytes, at + RECORD_HEADER_BYTES, at + length)
      crc = crc32cUpdate(crc, bytes, at, at + CRC_OFFSET)
      return this.#endRecord(start, crc32cFinish(crc) === bytes.readUInt32LE(at + CRC_OFFSET), bytes[at + 17], bytes[at + 16], page, offset + length)
    }
    // It goes on where this page ends, or its bytes on this page have yet to come.
    if (offset + length <= PAGE_BYTES) return undefined
    this.#progress = { at: 'record', start, length, done: 0, crc: CRC32C_INIT }
    return this.#continueRecord(this.#progress, bytes, pageAt, page, offset, available)
  }

  #continueRecord(
    record: Extract<Progress, { at: 'record' }>,
    bytes: Buffer,
    pageAt: number,
    page: Lsn,
    offset: number,
    available: number,
  ): number | undefined {
    const take = Math.min(record.length - record.done, available - offset)
    const at = pageAt + offset
    let from = at
    if (record.done < RECORD_HEADER_BYTES) {
      const header = Math.min(RECORD_HEADER_BYTES - record.done, take)
      bytes.copy(this.#header, record.done, at, at + header)
      from += header
      if (record.done + header === RECORD_HEADER_BYTES && !this.#checkHeader(this.#header, 0, record.start)) return undefined
    }
    record.crc = crc32cUpdate(record.crc, bytes, from, at + take)
    record.done += take
    if (record.done < record.length) return offset + take
    const crc = crc32cUpdate(record.crc, this.#header, 0, CRC_OFFSET)
    const isRight = crc32cFinish(crc) === this.#header.readUInt32LE(CRC_OFFSET)
    return this.#endRecord(record.start, isRight, this.#header[17], this.#header[16], page, offset + take)
  }

  #stepOver(progress: Extract<Progress, { at: 'unknown' }>, page: Lsn, offset: number, available: number): number | undefined {
    const take = Math.min(progress.remaining, available - offset)
    progress.remaining -= take
    if (progress.remaining > 0) return offset + take
    this.#progress = { at: 'boundary' }
    const end = align(offset + take)
    this.#validEnd = toLsn(page + BigInt(end))
    return end
  }

  #checkHeader(header: Buffer, at: number, start: Lsn): boolean {
    const rmgr = header[at + 17]
    if (rmgr > MAX_BUILTIN_RMGR && rmgr < MIN_CUSTOM_RMGR) this.#fail('resource-manager', start)
    const back = header.readBigUInt64LE(at + 8)
    if (this.#previous === undefined ? back >= start : back !== this.#previous) this.#fail('back-link', start)
    return this.#fault === undefined
  }

  /** Answers where the next record begins on this page. */
  #endRecord(start: Lsn, isRight: boolean, rmgr: number, info: number, page: Lsn, offset: number): number | undefined {
    if (!isRight) {
      this.#fail('checksum', start)
      return undefined
    }
    this.#progress = { at: 'boundary' }
    this.#records++
    this.#previous = this.#lastRecord = start
    let end = toLsn(page + BigInt(align(offset)))
    if (rmgr === RMGR_XLOG && (info & 0xf0) === XLOG_SWITCH) {
      const size = BigInt(this.#options.segmentBytes)
      end = toLsn(end + ((size - (end % size)) % size))
    }
    this.#validEnd = end
    return Number(end - page)
  }
}

const align = (offset: number): number => (offset + ALIGNMENT - 1) & ~(ALIGNMENT - 1)

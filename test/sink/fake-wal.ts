/** WAL that passes every check, made from nothing: one record on each page. */
import { crc32cFinish, crc32cUpdate, CRC32C_INIT } from '../../src/wal/crc32c.ts'
import { toLsn, type Lsn } from '../../src/wal/lsn.ts'
import { LONG_HEADER_BYTES, PAGE_BYTES, PAGE_MAGIC, SHORT_HEADER_BYTES } from '../../src/wal/wal-page.ts'

export const SEGMENT_BYTES = 1024 * 1024
export const SYSTEM_ID = 7_123_456_789_012_345_678n

/** Segment `number` of a timeline; `pages` less than all of them: zeros follow. */
export function fakeSegment(number: bigint, { timeline = 1, pages = SEGMENT_BYTES / PAGE_BYTES, segmentBytes = SEGMENT_BYTES, fill = 7 } = {}): Buffer {
  const segment = Buffer.alloc(segmentBytes)
  const start = number * BigInt(segmentBytes)
  for (let page = 0; page < pages; page++) {
    const at = page * PAGE_BYTES
    const header = page === 0 ? LONG_HEADER_BYTES : SHORT_HEADER_BYTES
    segment.writeUInt16LE(PAGE_MAGIC, at)
    segment.writeUInt16LE(page === 0 ? 2 : 0, at + 2)
    segment.writeUInt32LE(timeline, at + 4)
    segment.writeBigUInt64LE(start + BigInt(at), at + 8)
    if (page === 0) {
      segment.writeBigUInt64LE(SYSTEM_ID, at + 24)
      segment.writeUInt32LE(segmentBytes, at + 32)
      segment.writeUInt32LE(PAGE_BYTES, at + 36)
    }
    const record = at + header
    const length = PAGE_BYTES - header
    segment.writeUInt32LE(length, record)
    segment.writeBigUInt64LE(previousRecord(start + BigInt(record), segmentBytes), record + 8)
    segment.fill(fill, record + 24, record + length)
    const crc = crc32cUpdate(crc32cUpdate(CRC32C_INIT, segment, record + 24, record + length), segment, record, record + 20)
    segment.writeUInt32LE(crc32cFinish(crc), record + 20)
  }
  return segment
}

/** Every page has one record, right behind its header. */
function previousRecord(record: bigint, segmentBytes: number): bigint {
  const page = record - (record % BigInt(PAGE_BYTES)) - BigInt(PAGE_BYTES)
  return page < 0n ? 0n : page + BigInt(page % BigInt(segmentBytes) === 0n ? LONG_HEADER_BYTES : SHORT_HEADER_BYTES)
}

/** Where WAL ends that has `pages` pages in segment `number`. */
export const endOfPages = (number: bigint, pages: number): Lsn => toLsn(number * BigInt(SEGMENT_BYTES) + BigInt(pages * PAGE_BYTES))

/**
 * Walks frames of the log for what positions need: where transactions begin and end, and their chain hashes. Pure.
 * Only Begin and Commit are looked into; everything between is stepped over by its length.
 */
import { FRAME_HEADER_BYTES, frameType } from '../transport/frame.ts'
import type { Lsn } from '../wal/lsn.ts'

const CHAIN_BYTES = 32

/** Avro long at `offset`: zig-zag, little-endian groups of seven bits. */
function readLong(bytes: Buffer, offset: number): bigint {
  let value = 0n
  for (let shift = 0n; ; shift += 7n) {
    const byte = bytes[offset++]
    value |= BigInt(byte & 0x7f) << shift
    if ((byte & 0x80) === 0) break
  }
  return BigInt.asIntN(64, (value >> 1n) ^ -(value & 1n))
}

/** Bytes that the Avro long at `offset` takes. */
function longLength(bytes: Buffer, offset: number): number {
  let end = offset
  while ((bytes[end] & 0x80) !== 0) end++
  return end + 1 - offset
}

export interface TransactionVisitor {
  /** A Begin frame starts at `offset`. Answer true to stop the walk there. */
  begin?(lsn: Lsn, time: bigint, offset: number): boolean
  /** A Commit frame ends at `end`. Answer true to stop the walk there. */
  commit?(lsn: Lsn, chain: Buffer, end: number): boolean
}

/**
 * Visits each Begin and Commit frame that is whole in `frames`, which starts at a frame and lies `base` bytes into what
 * offsets are counted in. Answers how many bytes of whole frames it went over, and whether the visitor stopped it.
 */
export function walkTransactions(frames: Buffer, visitor: TransactionVisitor, base = 0): { walked: number; stopped: boolean } {
  let offset = 0
  while (offset + FRAME_HEADER_BYTES <= frames.length) {
    const end = offset + 4 + frames.readUInt32BE(offset)
    if (end > frames.length) break
    const body = offset + FRAME_HEADER_BYTES
    let stopped = false
    if (frames[offset + 4] === frameType.begin && visitor.begin) {
      const time = readLong(frames, body + longLength(frames, body))
      stopped = visitor.begin(BigInt.asUintN(64, readLong(frames, body)) as Lsn, time, base + offset)
    } else if (frames[offset + 4] === frameType.commit && visitor.commit) {
      stopped = visitor.commit(BigInt.asUintN(64, readLong(frames, body)) as Lsn, frames.subarray(end - CHAIN_BYTES, end), base + end)
    }
    if (stopped) return { walked: offset, stopped }
    offset = end
  }
  return { walked: offset, stopped: false }
}

/**
 * A segment: one file of the change log, named by the commit LSN after which it begins.
 *
 *     offset  size  (little-endian)
 *          0     8  magic "BPGLOG01"
 *          8     4  CRC-32 of the rest of the header
 *         12    16  UUID of the history
 *         28     8  commit LSN of the last transaction before this segment
 *         36     8  its end LSN
 *         44     8  its commit time, µs since 1970
 *         52    32  chain hash after it
 *         84    12  zero
 *         96        blocks
 *
 * So a segment can be read without the ones before it. It begins between two transactions, always.
 */
import { crc32 } from 'node:zlib'
import type { Lsn } from '../wal/lsn.ts'
import { toLsn } from '../wal/lsn.ts'

export const SEGMENT_HEADER_BYTES = 96
const MAGIC = 'BPGLOG01'
const NAME = /^([0-9a-f]{16})\.log$/

/** The transaction that a place in the log comes after. */
export type Base = { readonly lsn: Lsn; readonly endLsn: Lsn; readonly time: bigint; readonly chain: Buffer }

export const segmentName = (base: Base): string => `${base.lsn.toString(16).padStart(16, '0')}.log`

export function parseSegmentName(name: string): Lsn | undefined {
  const match = NAME.exec(name)
  return match ? toLsn(BigInt(`0x${match[1]}`)) : undefined
}

export function encodeSegmentHeader(history: Buffer, base: Base): Buffer {
  const header = Buffer.alloc(SEGMENT_HEADER_BYTES)
  header.write(MAGIC, 0, 'latin1')
  header.set(history, 12)
  header.writeBigUInt64LE(base.lsn, 28)
  header.writeBigUInt64LE(base.endLsn, 36)
  header.writeBigInt64LE(base.time, 44)
  header.set(base.chain, 52)
  header.writeUInt32LE(crc32(header.subarray(12)), 8)
  return header
}

/** undefined: these bytes are not a whole segment header. */
export function decodeSegmentHeader(header: Buffer): { history: Buffer; base: Base } | undefined {
  if (header.length < SEGMENT_HEADER_BYTES || header.toString('latin1', 0, 8) !== MAGIC) return undefined
  if (header.readUInt32LE(8) !== crc32(header.subarray(12, SEGMENT_HEADER_BYTES))) return undefined
  return {
    history: Buffer.from(header.subarray(12, 28)),
    base: {
      lsn: toLsn(header.readBigUInt64LE(28)),
      endLsn: toLsn(header.readBigUInt64LE(36)),
      time: header.readBigInt64LE(44),
      chain: Buffer.from(header.subarray(52, 84)),
    },
  }
}

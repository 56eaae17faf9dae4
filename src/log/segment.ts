/**
 * A segment: one file of the change log, named by the LSN up to which Postgres had been read when it began.
 *
 *     offset  size  (little-endian)
 *          0     8  magic "BPGLOG01"
 *          8     4  CRC-32 of the rest of the header
 *         12    16  UUID of the history
 *         28     8  commit LSN of the last transaction before this segment
 *         36     8  its end LSN
 *         44     8  its commit time, µs since 1970
 *         52    32  chain hash after it
 *         84     8  LSN up to which Postgres had been read
 *         92     4  zero
 *         96        blocks
 *
 * So a segment can be read without the ones before it. It begins between two transactions, always. What had been read
 * may lie behind the last transaction, when marks followed it; so segments on an idle database have names of their own.
 */
import { crc32 } from 'node:zlib'
import { BeyondError } from '../errors.ts'
import { toLsn, type Lsn } from '../wal/lsn.ts'

export const SEGMENT_HEADER_BYTES = 96
const MAGIC = 'BPGLOG01'
const NAME = /^([0-9a-f]{16})\.log$/

/** The transaction that a place in the log comes after. `time` is the latest commit time up to there. */
export type Base = { readonly lsn: Lsn; readonly endLsn: Lsn; readonly time: bigint; readonly chain: Buffer }

export type SegmentHeader = { readonly history: Buffer; readonly base: Base; readonly reached: Lsn }

export const segmentName = (reached: Lsn): string => `${reached.toString(16).padStart(16, '0')}.log`

export function parseSegmentName(name: string): Lsn | undefined {
  const match = NAME.exec(name)
  return match ? toLsn(BigInt(`0x${match[1]}`)) : undefined
}

export function encodeSegmentHeader({ history, base, reached }: SegmentHeader): Buffer {
  const header = Buffer.alloc(SEGMENT_HEADER_BYTES)
  header.write(MAGIC, 0, 'latin1')
  header.set(history, 12)
  header.writeBigUInt64LE(base.lsn, 28)
  header.writeBigUInt64LE(base.endLsn, 36)
  header.writeBigInt64LE(base.time, 44)
  header.set(base.chain, 52)
  header.writeBigUInt64LE(reached, 84)
  header.writeUInt32LE(crc32(header.subarray(12)), 8)
  return header
}

/** undefined: these bytes are not a whole segment header. */
export function decodeSegmentHeader(header: Buffer): SegmentHeader | undefined {
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
    reached: toLsn(header.readBigUInt64LE(84)),
  }
}

/** Bytes of a segment that are not what was written, or not all of them. */
export function damaged(path: string, position: number, cause?: unknown): BeyondError {
  return new BeyondError('LOG_CORRUPT', `${path} is damaged at byte ${position}: restore the file, or start a new history with --new-history.`, {
    cause,
    facts: { path, position },
  })
}

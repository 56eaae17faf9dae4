/**
 * The record of the change log: a block, which is whole protocol frames behind a header. Pure.
 *
 *     offset  size  (little-endian)
 *          0     4  magic "BLK1"
 *          4     4  CRC-32 of the header from offset 8 to the end of the fingerprints
 *          8     4  payload length
 *         12     4  CRC-32 of the payload
 *         16     1  kind: 1 data, 2 mark
 *         17     1  flags: 1 the block begins inside a transaction, 2 it ends inside one
 *         18     2  number of fingerprints
 *         20     4  transactions that end in this block
 *         24     4  changes in this block
 *         28     8  commit LSN of the last transaction that ends here (mark: the LSN that was reached)
 *         36     8  its end LSN
 *         44     8  latest commit time of the history so far, µs since 1970
 *         52    32  chain hash after it
 *         84   8·n  fingerprints of the relation versions that the payload uses
 *                   payload: frames as they go to subscribers
 *
 * A block either holds whole transactions, or one piece of a transaction that is longer than a block (its last piece
 * may be followed by whole ones). A mark holds no payload: it says that Postgres has been read up to an LSN without
 * anything to log, and is written before that LSN is confirmed to the slot.
 *
 * Header and payload have a checksum each, so that a search that only reads headers can believe them.
 */
import { crc32 } from 'node:zlib'
import type { Lsn } from '../wal/lsn.ts'

export const BLOCK_HEADER_BYTES = 84
export const MAX_FINGERPRINTS = 0xffff
const CHECKED_FROM = 8
const MAGIC = 0x314b4c42
const KIND_DATA = 1
const KIND_MARK = 2
const BEGINS_INSIDE = 1
const ENDS_INSIDE = 2

export type BlockHeader = {
  readonly kind: 'data' | 'mark'
  readonly beginsInside: boolean
  readonly endsInside: boolean
  readonly transactions: number
  readonly changes: number
  /** Of the last transaction that ends in the block; of the one before the block when none does. */
  readonly lsn: Lsn
  readonly endLsn: Lsn
  readonly time: bigint
  readonly chain: Buffer
  readonly fingerprints: readonly bigint[]
  readonly payloadLength: number
}

/** Header and fingerprints, with the checksums over them and over the payload. */
export function encodeBlockHeader(block: Omit<BlockHeader, 'payloadLength'>, payload: Uint8Array): Buffer {
  const header = Buffer.alloc(BLOCK_HEADER_BYTES + 8 * block.fingerprints.length)
  header.writeUInt32LE(MAGIC, 0)
  header.writeUInt32LE(payload.length, 8)
  header.writeUInt32LE(crc32(payload), 12)
  header[16] = block.kind === 'data' ? KIND_DATA : KIND_MARK
  header[17] = (block.beginsInside ? BEGINS_INSIDE : 0) | (block.endsInside ? ENDS_INSIDE : 0)
  header.writeUInt16LE(block.fingerprints.length, 18)
  header.writeUInt32LE(block.transactions, 20)
  header.writeUInt32LE(block.changes, 24)
  header.writeBigUInt64LE(block.lsn, 28)
  header.writeBigUInt64LE(block.endLsn, 36)
  header.writeBigInt64LE(block.time, 44)
  header.set(block.chain, 52)
  block.fingerprints.forEach((fingerprint, i) => header.writeBigUInt64LE(fingerprint, BLOCK_HEADER_BYTES + 8 * i))
  header.writeUInt32LE(crc32(header.subarray(CHECKED_FROM)), 4)
  return header
}

/** Lengths that the fixed part announces, yet to be checked; undefined when these are not the first bytes of a block. */
export function blockLengths(bytes: Buffer): { header: number; payload: number } | undefined {
  if (bytes.length < BLOCK_HEADER_BYTES || bytes.readUInt32LE(0) !== MAGIC) return undefined
  return { header: BLOCK_HEADER_BYTES + 8 * bytes.readUInt16LE(18), payload: bytes.readUInt32LE(8) }
}

/** Reads a header whose bytes, fingerprints included, are all there; undefined when they are not what was written. */
export function decodeBlockHeader(bytes: Buffer): BlockHeader | undefined {
  if (crc32(bytes.subarray(CHECKED_FROM)) !== bytes.readUInt32LE(4)) return undefined
  const fingerprints: bigint[] = []
  for (let offset = BLOCK_HEADER_BYTES; offset < bytes.length; offset += 8) fingerprints.push(bytes.readBigUInt64LE(offset))
  return {
    kind: bytes[16] === KIND_DATA ? 'data' : 'mark',
    beginsInside: (bytes[17] & BEGINS_INSIDE) !== 0,
    endsInside: (bytes[17] & ENDS_INSIDE) !== 0,
    transactions: bytes.readUInt32LE(20),
    changes: bytes.readUInt32LE(24),
    lsn: bytes.readBigUInt64LE(28) as Lsn,
    endLsn: bytes.readBigUInt64LE(36) as Lsn,
    time: bytes.readBigInt64LE(44),
    chain: Buffer.from(bytes.subarray(52, BLOCK_HEADER_BYTES)),
    fingerprints,
    payloadLength: bytes.readUInt32LE(8),
  }
}

/** The checksum of the payload, as the header has it. */
export const payloadChecksum = (header: Buffer): number => header.readUInt32LE(12)
/** The checksum of what came before, 0 at first, and `bytes` after it. */
export const addToChecksum = (checksum: number, bytes: Uint8Array): number => crc32(bytes, checksum)

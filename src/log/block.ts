/**
 * The record of the change log: a block, which is whole protocol frames behind a header. Pure.
 *
 *     offset  size  (little-endian)
 *          0     4  magic "BLK1"
 *          4     4  payload length
 *          8     4  CRC-32 of everything from offset 12 to the end of the payload
 *         12     1  kind: 1 data, 2 mark
 *         13     1  flags: 1 the block begins inside a transaction, 2 it ends inside one
 *         14     2  number of fingerprints
 *         16     4  transactions that end in this block
 *         20     4  changes in this block
 *         24     8  commit LSN of the last transaction that ends here (mark: the LSN that was reached)
 *         32     8  its end LSN
 *         40     8  its commit time, µs since 1970
 *         48    32  chain hash after it
 *         80   8·n  fingerprints of the relation versions that the payload uses
 *                   payload: frames as they go to subscribers
 *
 * A block either holds whole transactions, or one piece of a transaction that is longer than a block (its last piece
 * may be followed by whole ones). A mark holds no payload: it says that Postgres has been read up to an LSN without
 * anything to log, and is written before that LSN is confirmed to the slot.
 */
import { crc32 } from 'node:zlib'
import type { Lsn } from '../wal/lsn.ts'

export const BLOCK_HEADER_BYTES = 80
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

/** Header and fingerprints, with the checksum over them and the payload. */
export function encodeBlockHeader(block: Omit<BlockHeader, 'payloadLength'>, payload: Uint8Array): Buffer {
  const header = Buffer.alloc(BLOCK_HEADER_BYTES + 8 * block.fingerprints.length)
  header.writeUInt32LE(MAGIC, 0)
  header.writeUInt32LE(payload.length, 4)
  header[12] = block.kind === 'data' ? KIND_DATA : KIND_MARK
  header[13] = (block.beginsInside ? BEGINS_INSIDE : 0) | (block.endsInside ? ENDS_INSIDE : 0)
  header.writeUInt16LE(block.fingerprints.length, 14)
  header.writeUInt32LE(block.transactions, 16)
  header.writeUInt32LE(block.changes, 20)
  header.writeBigUInt64LE(block.lsn, 24)
  header.writeBigUInt64LE(block.endLsn, 32)
  header.writeBigInt64LE(block.time, 40)
  header.set(block.chain, 48)
  block.fingerprints.forEach((fingerprint, i) => header.writeBigUInt64LE(fingerprint, BLOCK_HEADER_BYTES + 8 * i))
  header.writeUInt32LE(crc32(payload, crc32(header.subarray(12))), 8)
  return header
}

/** Lengths that the fixed part announces; undefined when these are not the first bytes of a block. */
export function blockLengths(bytes: Buffer): { header: number; payload: number } | undefined {
  if (bytes.length < BLOCK_HEADER_BYTES || bytes.readUInt32LE(0) !== MAGIC) return undefined
  const kind = bytes[12]
  if (kind !== KIND_DATA && kind !== KIND_MARK) return undefined
  return { header: BLOCK_HEADER_BYTES + 8 * bytes.readUInt16LE(14), payload: bytes.readUInt32LE(4) }
}

/** Reads a header whose bytes, fingerprints included, are all there. */
export function decodeBlockHeader(bytes: Buffer): BlockHeader {
  const count = bytes.readUInt16LE(14)
  const fingerprints: bigint[] = []
  for (let i = 0; i < count; i++) fingerprints.push(bytes.readBigUInt64LE(BLOCK_HEADER_BYTES + 8 * i))
  return {
    kind: bytes[12] === KIND_DATA ? 'data' : 'mark',
    beginsInside: (bytes[13] & BEGINS_INSIDE) !== 0,
    endsInside: (bytes[13] & ENDS_INSIDE) !== 0,
    transactions: bytes.readUInt32LE(16),
    changes: bytes.readUInt32LE(20),
    lsn: bytes.readBigUInt64LE(24) as Lsn,
    endLsn: bytes.readBigUInt64LE(32) as Lsn,
    time: bytes.readBigInt64LE(40),
    chain: Buffer.from(bytes.subarray(48, 80)),
    fingerprints,
    payloadLength: bytes.readUInt32LE(4),
  }
}

/** The checksum that the header carries, and the running one that the payload is to be added to. */
export const storedChecksum = (header: Buffer): number => header.readUInt32LE(8)
export const headerChecksum = (header: Buffer): number => crc32(header.subarray(12))
export const addToChecksum = (checksum: number, bytes: Uint8Array): number => crc32(bytes, checksum)

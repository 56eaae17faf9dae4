/** Reads blocks of a segment file in order, in large reads, with bounded memory whatever the file holds. */
import type { FileHandle } from 'node:fs/promises'
import { addToChecksum, blockLengths, BLOCK_HEADER_BYTES, decodeBlockHeader, payloadChecksum, type BlockHeader } from './block.ts'
import { walkTransactions, type TransactionVisitor } from './transaction-walk.ts'

const READ_BYTES = 256 * 1024

export type ScannedBlock = {
  readonly header: BlockHeader
  /** Where the block begins and ends in the file. */
  readonly start: number
  readonly end: number
  /** Length of header and fingerprints: the payload follows. */
  readonly headerLength: number
  /** What the checksum of the payload has to be. */
  readonly checksum: number
}

/** Fills as much of `into` as the file has from `position` on; answers the count. */
export async function readFully(file: FileHandle, into: Buffer, position: number): Promise<number> {
  let filled = 0
  while (filled < into.length) {
    const { bytesRead } = await file.read(into, filled, into.length - filled, position + filled)
    if (bytesRead === 0) break
    filled += bytesRead
  }
  return filled
}

/**
 * Yields each block with a valid header from `start` to `limit`. Stops at the first bytes that are not a whole valid
 * block: the caller knows whether they may be there. `verify` reads payloads too; else they are stepped over, unchecked.
 */
export async function* scanBlocks(file: FileHandle, start: number, limit: number, verify: boolean): AsyncGenerator<ScannedBlock> {
  const chunk = Buffer.allocUnsafe(READ_BYTES)
  let chunkStart = start
  let chunkLength = 0
  const at = async (offset: number, length: number): Promise<Buffer | undefined> => {
    if (offset < chunkStart || offset + length > chunkStart + chunkLength) {
      chunkStart = offset
      chunkLength = await readFully(file, chunk.subarray(0, Math.min(READ_BYTES, limit - offset)), offset)
      if (length > chunkLength) return undefined
    }
    return chunk.subarray(offset - chunkStart, offset - chunkStart + length)
  }
  for (let offset = start; offset + BLOCK_HEADER_BYTES <= limit; ) {
    const fixed = await at(offset, BLOCK_HEADER_BYTES)
    const lengths = fixed && blockLengths(fixed)
    if (!lengths || offset + lengths.header + lengths.payload > limit) return
    let head: Buffer | undefined
    if (lengths.header <= READ_BYTES) head = await at(offset, lengths.header)
    else {
      head = Buffer.allocUnsafe(lengths.header)
      if ((await readFully(file, head, offset)) < head.length) return
    }
    const header = head && decodeBlockHeader(head)
    if (!header) return
    const stored = payloadChecksum(head!)
    if (verify) {
      let checksum = 0
      for (let done = 0; done < lengths.payload; ) {
        const step = Math.min(READ_BYTES, lengths.payload - done)
        const bytes = await at(offset + lengths.header + done, step)
        if (!bytes) return
        checksum = addToChecksum(checksum, bytes)
        done += step
      }
      if (checksum !== stored) return
    }
    const end = offset + lengths.header + lengths.payload
    yield { header, start: offset, end, headerLength: lengths.header, checksum: stored }
    offset = end
  }
}

/** Whether the payload between `start` and `end` of the file has this checksum. */
export async function payloadIsValid(file: FileHandle, start: number, end: number, expected: number): Promise<boolean> {
  const chunk = Buffer.allocUnsafe(Math.min(READ_BYTES, end - start))
  let checksum = 0
  for (let offset = start; offset < end; ) {
    const bytes = chunk.subarray(0, Math.min(chunk.length, end - offset))
    if ((await readFully(file, bytes, offset)) < bytes.length) return false
    checksum = addToChecksum(checksum, bytes)
    offset += bytes.length
  }
  return checksum === expected
}

/** Visits transactions of one block; offsets are within its payload. Answers false when the payload is damaged. */
export async function walkBlock(file: FileHandle, block: ScannedBlock, visitor: TransactionVisitor): Promise<boolean> {
  const payloadStart = block.start + block.headerLength
  if (!(await payloadIsValid(file, payloadStart, block.end, block.checksum))) return false
  const { payloadLength } = block.header
  const chunk = Buffer.allocUnsafe(Math.min(READ_BYTES, payloadLength))
  for (let offset = 0; offset < payloadLength; ) {
    const bytes = chunk.subarray(0, Math.min(chunk.length, payloadLength - offset))
    if ((await readFully(file, bytes, payloadStart + offset)) < bytes.length) return false
    const { walked, stopped } = walkTransactions(bytes, visitor, offset)
    if (stopped) return true
    // Nothing walked: a frame longer than the chunk. Begin and Commit never are, so it is stepped over.
    offset += walked > 0 ? walked : 4 + bytes.readUInt32BE(0)
  }
  return true
}

/** Reads blocks of a segment file in order, in large reads, with bounded memory whatever the file holds. */
import type { FileHandle } from 'node:fs/promises'
import { addToChecksum, blockLengths, BLOCK_HEADER_BYTES, decodeBlockHeader, headerChecksum, storedChecksum, type BlockHeader } from './block.ts'

const READ_BYTES = 256 * 1024

export type ScannedBlock = {
  readonly header: BlockHeader
  /** Where the block begins and ends in the file. */
  readonly start: number
  readonly end: number
  /** Length of header and fingerprints: the payload follows. */
  readonly headerLength: number
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
 * Yields each valid block from `start` to `limit`. Stops at the first bytes that are not a whole valid block: the
 * caller knows whether they may be there. `verify` reads payloads too and checks the checksum; else they are stepped over.
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
    if (!head) return
    const header = decodeBlockHeader(head)
    if (verify) {
      const stored = storedChecksum(head)
      let checksum = headerChecksum(head)
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
    yield { header, start: offset, end, headerLength: lengths.header }
    offset = end
  }
}

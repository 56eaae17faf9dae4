/** Reads segments that are kept, for their checksum and for the records in them. */
import { createHash } from 'node:crypto'
import { open } from 'node:fs/promises'
import { formatLsn, toLsn, type Lsn } from '../wal/lsn.ts'
import { PAGE_BYTES } from '../wal/wal-page.ts'
import { WalScanner, type ScannerOptions } from '../wal/wal-scanner.ts'
import { openStored, type Stored } from './segment-store.ts'

const PIECE_BYTES = 1024 * 1024

/** Bytes [0, end) of a file in pieces, then zeros up to `bytes`. */
export async function* readWithZeros(path: string, end: number, bytes: number): AsyncIterable<Buffer> {
  await using file = await open(path, 'r')
  let at = 0
  while (at < end) {
    const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, end - at))
    const { bytesRead } = await file.read(piece, 0, piece.length, at)
    if (bytesRead === 0) break
    at += bytesRead
    yield piece.subarray(0, bytesRead)
  }
  for (; at < bytes; at += Math.min(PIECE_BYTES, bytes - at)) yield Buffer.alloc(Math.min(PIECE_BYTES, bytes - at))
}

/** Cuts what comes into whole pages. */
async function* byPages(source: AsyncIterable<Buffer>): AsyncIterable<Buffer> {
  let rest: Buffer = Buffer.alloc(0)
  for await (const piece of source) {
    const all = rest.length === 0 ? piece : Buffer.concat([rest, piece])
    const whole = all.length - (all.length % PAGE_BYTES)
    if (whole > 0) yield all.subarray(0, whole)
    rest = all.subarray(whole)
  }
  if (rest.length > 0) yield rest
}

/** What is wrong with it; undefined: nothing. `scanner` stands at its start, and behind it afterwards when it is closed. */
export async function checkStored(stored: Stored, scanner: WalScanner): Promise<string | undefined> {
  await using object = await openStored(stored)
  const hash = createHash('sha256')
  let at: bigint = stored.start
  for await (const piece of byPages(object.read(0, stored.bytes))) {
    hash.update(piece)
    scanner.scan(piece, toLsn(at))
    at += BigInt(piece.length)
  }
  if (at !== stored.start + BigInt(stored.bytes)) return `it has ${at - stored.start} bytes instead of ${stored.bytes}`
  if (hash.digest('hex') !== stored.sha256) return 'its checksum is another one'
  if (stored.kind === 'closed' && scanner.fault) return `its WAL is wrong at ${formatLsn(scanner.fault.at)} (${scanner.fault.kind})`
  if (stored.kind === 'sealed' && scanner.validEnd !== stored.end) return `its WAL ends at ${formatLsn(scanner.validEnd)} instead of ${formatLsn(stored.end)}`
  return undefined
}

/** Where whole WAL ends in a file, read from the segment's start. */
export async function validEndOf(path: string, options: ScannerOptions): Promise<Lsn> {
  const scanner = new WalScanner(options)
  let at: bigint = options.start
  for await (const piece of readWithZeros(path, options.segmentBytes, 0)) {
    if (!scanner.scan(piece, toLsn(at))) break
    at += BigInt(piece.length)
  }
  return scanner.validEnd
}

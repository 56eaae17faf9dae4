/**
 * Transactions as the change log stores them, with the right chain hashes: from the envelopes alone, changes are bytes
 * of any content. And cutting them into appends, as the decoder and its batches would.
 */
import { createHash } from 'node:crypto'
import type { Append } from '../../src/log/change-log.ts'
import { genesisPosition, type Manifest } from '../../src/log/manifest.ts'
import { envelopes, type Position } from '../../src/transport/envelopes.ts'
import { encodeFrame, frameType } from '../../src/transport/frame.ts'
import { toLsn, type Lsn } from '../../src/wal/lsn.ts'

export type TestTransaction = {
  readonly lsn: Lsn
  readonly endLsn: Lsn
  /** µs since 1970. */
  readonly time: bigint
  /** Whole frames: Begin, changes, Commit. */
  readonly frames: readonly Buffer[]
  readonly bytes: Buffer
  readonly chain: Buffer
}

export const FINGERPRINT = 0x1122334455667788n

/** Makes one transaction after the other, each chained to the one before. */
export class TransactionBuilder {
  chain: Uint8Array
  lsn: Lsn

  constructor(after: Position) {
    this.chain = after.chain
    this.lsn = after.lsn
  }

  /** `changes` are sizes of Change frames' bodies, filled from `fill` on. */
  next(changes: readonly number[], options: { time?: bigint; gap?: bigint; fill?: number } = {}): TestTransaction {
    const lsn = toLsn(this.lsn + (options.gap ?? 100n))
    const endLsn = toLsn(lsn + 40n)
    const time = options.time ?? 1_700_000_000_000_000n + BigInt(lsn)
    const frames = [encodeFrame(frameType.begin, envelopes.begin.encode({ lsn, time, xid: 7n }))]
    changes.forEach((size, i) => frames.push(encodeFrame(frameType.change, Buffer.alloc(size, ((options.fill ?? 1) + i) & 0xff))))
    const zero = Buffer.alloc(32)
    const commit = encodeFrame(frameType.commit, envelopes.commit.encode({ lsn, endLsn, changes: BigInt(changes.length), chain: zero }))
    const hash = createHash('sha256').update(this.chain)
    for (const frame of frames) hash.update(frame)
    const chain = hash.update(commit.subarray(0, commit.length - 32)).digest()
    commit.set(chain, commit.length - 32)
    frames.push(commit)
    this.chain = chain
    this.lsn = lsn
    return { lsn, endLsn, time, frames, bytes: Buffer.concat(frames), chain }
  }
}

export const builderFor = (manifest: Manifest): TransactionBuilder => new TransactionBuilder(genesisPosition(manifest))

const latest = (transactions: readonly TestTransaction[]): bigint => transactions.reduce((max, { time }) => (time > max ? time : max), 0n)

/** One append of whole transactions. */
export function wholeAppend(transactions: readonly TestTransaction[]): Append {
  return {
    frames: Buffer.concat(transactions.map(({ bytes }) => bytes)),
    beginsInside: false,
    endsInside: false,
    transactions: transactions.length,
    changes: transactions.reduce((sum, { frames }) => sum + frames.length - 2, 0),
    last: transactions.at(-1),
    latestTime: latest(transactions),
    fingerprints: [FINGERPRINT],
    schemas: [],
  }
}

/**
 * Appends that together are these transactions, cut after the frames whose running numbers are in `cuts`. A batch that
 * ends inside a transaction gives two: the whole ones, then the open one, as the log demands.
 */
export function cutAppends(transactions: readonly TestTransaction[], cuts: ReadonlySet<number>): Append[] {
  const appends: Append[] = []
  let inside = false
  let frames: Buffer[] = []
  let whole: TestTransaction[] = []
  let changes = 0
  const push = (last: TestTransaction | undefined, endsInside: boolean): void => {
    if (frames.length === 0) return
    appends.push({
      frames: Buffer.concat(frames),
      beginsInside: inside,
      endsInside,
      transactions: whole.length,
      changes,
      last,
      latestTime: latest(whole),
      fingerprints: [FINGERPRINT],
      schemas: [],
    })
    inside = endsInside
    frames = []
    whole = []
    changes = 0
  }
  let number = 0
  for (const transaction of transactions) {
    const cutInside = transaction.frames.slice(0, -1).some((_, i) => cuts.has(number + i))
    if (cutInside && whole.length > 0) push(whole.at(-1), false)
    for (const [i, frame] of transaction.frames.entries()) {
      frames.push(frame)
      const last = i === transaction.frames.length - 1
      if (last) {
        whole.push(transaction)
        changes += transaction.frames.length - 2
      }
      if (cuts.has(number++)) push(last ? transaction : undefined, !last)
    }
  }
  push(whole.at(-1), false)
  return appends
}

/** Transactions in bytes that were read back: their LSNs. Throws when a chain hash is not right or a transaction is cut. */
export function verifiedTransactions(bytes: Buffer, after: Position): { readonly lsn: Lsn; readonly chain: Buffer }[] {
  const transactions: { lsn: Lsn; chain: Buffer }[] = []
  let chain: Uint8Array = after.chain
  let start = 0
  for (let offset = 0; offset < bytes.length; ) {
    const end = offset + 4 + bytes.readUInt32BE(offset)
    const type = bytes[offset + 4]
    if (end > bytes.length || (type === frameType.begin) !== (offset === start)) throw new Error(`transaction cut at ${offset}`)
    if (type === frameType.commit) {
      const commit = envelopes.commit.decode(bytes.subarray(offset + 5, end))
      const expected = createHash('sha256').update(chain).update(bytes.subarray(start, end - 32)).digest()
      if (!expected.equals(commit.chain)) throw new Error(`wrong chain at ${commit.lsn}`)
      transactions.push({ lsn: toLsn(BigInt(commit.lsn)), chain: expected })
      chain = expected
      start = end
    }
    offset = end
  }
  if (start !== bytes.length) throw new Error('the last transaction is cut')
  return transactions
}

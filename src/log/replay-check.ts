/**
 * Between encoder and log: compares the transaction that comes once more after a restart with the log's newest one, and
 * lets through what is new, in the shape that the log appends. Pure.
 */
import { BeyondError } from '../errors.ts'
import { formatLsn, type Lsn } from '../wal/lsn.ts'
import type { Append } from './change-log.ts'
import type { Base } from './segment.ts'

/** What the encoder gives; see `decode/change-encoder.ts`. */
export type Encoded = {
  readonly bytes: Buffer
  readonly transactions: readonly {
    readonly lsn: Lsn
    readonly endLsn: Lsn
    readonly time: bigint
    readonly chain: Buffer
    readonly changes: number
    readonly offset: number
    readonly length: number
  }[]
  readonly open: boolean
  readonly fingerprints: readonly bigint[]
  readonly changes: number
}

export class ReplayCheck {
  #head: Base
  #replaying: boolean
  #inside = false
  #schemas: Append['schemas'][number][] = []

  constructor(head: Base, replaysHead: boolean) {
    this.#head = head
    this.#replaying = replaysHead
  }

  /** What of the batch is new. Throws HISTORY_DIVERGED. */
  admit(batch: Encoded, newSchemas: Append['schemas']): Append[] {
    // Schemas that come with a replayed batch wait for the next bytes that are stored.
    this.#schemas.push(...newSchemas)
    let from = 0
    let transactions = batch.transactions
    if (this.#replaying) {
      const [replayed, ...rest] = transactions
      if (!replayed) return []
      if (replayed.lsn !== this.#head.lsn || !replayed.chain.equals(this.#head.chain))
        throw new BeyondError(
          'HISTORY_DIVERGED',
          `Postgres has another transaction at ${formatLsn(replayed.lsn)} than the change log has at ${formatLsn(this.#head.lsn)}: the database was put back and has gone another way. Begin a new history with --new-history (subscribers are then told).`,
        )
      this.#replaying = false
      from = replayed.offset + replayed.length
      transactions = rest
    }
    const appends: Append[] = []
    const last = transactions.at(-1)
    for (const { lsn } of transactions) {
      if (lsn <= this.#head.lsn)
        throw new BeyondError('HISTORY_DIVERGED', `Postgres sent a transaction at ${formatLsn(lsn)}, the change log is at ${formatLsn(this.#head.lsn)} already.`)
    }
    const { fingerprints } = batch
    if (last) {
      const end = last.offset + last.length
      appends.push({
        frames: batch.bytes.subarray(from, end),
        beginsInside: this.#inside,
        endsInside: false,
        transactions: transactions.length,
        changes: transactions.reduce((sum, { changes }) => sum + changes, 0),
        last,
        fingerprints,
        schemas: this.#takeSchemas(),
      })
      this.#head = last
      this.#inside = false
      from = end
    }
    // An open transaction gets blocks of its own: the log shows readers whole transactions only.
    if (from < batch.bytes.length) {
      appends.push({ frames: batch.bytes.subarray(from), beginsInside: this.#inside, endsInside: true, transactions: 0, changes: 0, last: undefined, fingerprints, schemas: this.#takeSchemas() })
      this.#inside = true
    }
    return appends
  }

  #takeSchemas(): Append['schemas'] {
    const schemas = this.#schemas
    this.#schemas = []
    return schemas
  }
}

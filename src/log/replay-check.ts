/**
 * Between encoder and log: compares the transaction that comes once more after a restart with the log's newest one, and
 * lets through what is new, in the shape that the log appends. What Postgres sends, and what it does not send although
 * it should, tells whether it still has the history of the log. Pure.
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

const REMEDY = 'the database was put back and has gone another way. Begin a new history with --new-history (subscribers are then told).'

export class ReplayCheck {
  #head: Base
  /** Postgres had been read up to here before: nothing but what the log has can come from before it. */
  readonly #reached: Lsn
  #replaying: boolean
  #inside = false
  #schemas: Append['schemas'][number][] = []

  constructor(log: { readonly head: Base; readonly reached: Lsn }, replaysHead: boolean) {
    this.#head = log.head
    this.#reached = log.reached
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
          `Postgres has another transaction at ${formatLsn(replayed.lsn)} than the change log has at ${formatLsn(this.#head.lsn)}: ${REMEDY}`,
        )
      this.#replaying = false
      from = replayed.offset + replayed.length
      transactions = rest
    }
    const appends: Append[] = []
    const last = transactions.at(-1)
    for (const { lsn } of transactions) {
      if (lsn <= this.#head.lsn || lsn < this.#reached)
        throw new BeyondError(
          'HISTORY_DIVERGED',
          `Postgres sent a transaction at ${formatLsn(lsn)}, which was not there when the change log read up to ${formatLsn(this.#reached)}: ${REMEDY}`,
        )
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
        latestTime: transactions.reduce((latest, { time }) => (time > latest ? time : latest), 0n),
        fingerprints,
        schemas: this.#takeSchemas(),
      })
      this.#head = last
      this.#inside = false
      from = end
    }
    // An open transaction gets blocks of its own: the log shows readers whole transactions only.
    if (from < batch.bytes.length) {
      appends.push({ frames: batch.bytes.subarray(from), beginsInside: this.#inside, endsInside: true, transactions: 0, changes: 0, last: undefined, latestTime: 0n, fingerprints, schemas: this.#takeSchemas() })
      this.#inside = true
    }
    return appends
  }

  /** Postgres has sent everything that it has before `lsn`. Throws HISTORY_DIVERGED. */
  idle(lsn: Lsn): void {
    if (this.#replaying && lsn > this.#head.lsn)
      throw new BeyondError('HISTORY_DIVERGED', `Postgres has nothing at ${formatLsn(this.#head.lsn)}, where the change log has a transaction: ${REMEDY}`)
  }

  #takeSchemas(): Append['schemas'] {
    const schemas = this.#schemas
    this.#schemas = []
    return schemas
  }
}

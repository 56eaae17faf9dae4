/** The change log as subscribers see it: where a subscription begins, and what it is told when it can't. */
import { setTimeout as sleep } from 'node:timers/promises'
import { BeyondError } from '../errors.ts'
import type { From, Position } from '../transport/envelopes.ts'
import { HistoryBroken, type LogReader, type ReadableLog } from '../transport/readable-log.ts'
import { formatLsn, type Lsn } from '../wal/lsn.ts'
import type { ChangeLog } from './change-log.ts'
import type { ConsumerStore } from './consumers.ts'
import { LogCursor } from './log-cursor.ts'
import { beginningOf, endOf, findPosition, findTime, lastShared, type Place } from './log-search.ts'
import { historyBytes } from './manifest.ts'
import { walkTransactions } from './transaction-walk.ts'

export type LogViewOptions = {
  readonly log: ChangeLog
  readonly consumers: ConsumerStore
  /** End of the server's WAL, asked anew; undefined while Postgres can't be reached. */
  readonly walEnd: () => Promise<Lsn | undefined>
  /** How long a subscriber whose position is ahead waits for the log to catch up. Milliseconds. */
  readonly catchUpMs: number
}

export class LogView implements ReadableLog {
  readonly #options: LogViewOptions
  readonly history: Uint8Array

  constructor(options: LogViewOptions) {
    this.#options = options
    this.history = historyBytes(options.log.manifest)
  }

  get systemId(): string {
    return this.#options.log.manifest.systemId
  }

  get database(): string {
    return this.#options.log.manifest.database
  }

  get head(): Position {
    const { lsn, chain } = this.#options.log.head
    return { lsn, chain }
  }

  get end(): number {
    return this.#options.log.end
  }

  get reached(): Lsn {
    return this.#options.log.reached
  }

  schema(fingerprint: bigint): string {
    return this.#options.log.schemas.get(fingerprint)
  }

  onAdvance(listener: () => void): () => void {
    return this.#options.log.onAdvance(listener)
  }

  acknowledge(consumer: string, position: Position): void {
    this.#options.consumers.set(consumer, position)
  }

  async open(from: From, consumer: string | null, signal: AbortSignal): Promise<{ reader: LogReader; start: Position }> {
    const { log, consumers } = this.#options
    const place = await this.#place(from, consumer, signal)
    // The cursor of a durable consumer exists from its first subscription on: the log is kept for it.
    if (consumer !== null && (from.kind !== 'position' || !consumers.get(consumer))) {
      consumers.set(consumer, place.after)
      await consumers.flush()
    }
    return { reader: new LogCursor(log, place), start: place.after }
  }

  async #place(from: From, consumer: string | null, signal: AbortSignal): Promise<Place> {
    const { log, consumers } = this.#options
    switch (from.kind) {
      case 'beginning':
        return beginningOf(log)
      case 'now':
        return endOf(log)
      case 'time':
        return findTime(log, from.micros)
      case 'position':
        return this.#after(from.after, from.checkpoints, from.partial?.lsn, signal)
      case 'cursor': {
        if (consumer === null) throw new BeyondError('BAD_REQUEST', 'A subscription from a cursor names its consumer.')
        const cursor = consumers.get(consumer)
        if (cursor) return this.#after(cursor, [], undefined, signal)
        return from.otherwise === 'beginning' ? beginningOf(log) : endOf(log)
      }
    }
  }

  async #after(after: Position, checkpoints: readonly Position[], partial: Lsn | undefined, signal: AbortSignal): Promise<Place> {
    const { log } = this.#options
    // A part of a transaction was delivered: the log must have caught up with that one, too.
    await this.#catchUp(partial !== undefined && partial > after.lsn ? partial : after.lsn, signal)
    const search = await findPosition(log, after)
    if (search.found === 'place' && (partial === undefined || (await this.#isNext(search.place, partial)))) return search.place
    if (search.found === 'too-old')
      throw new BeyondError('POSITION_TOO_OLD', `The log begins after ${formatLsn(log.oldest.lsn)} and no longer keeps what follows ${formatLsn(after.lsn)}.`)
    const shared = await lastShared(log, search.found === 'place' ? [after, ...checkpoints] : checkpoints)
    throw new HistoryBroken(
      `This database has another history than the one at ${formatLsn(partial ?? after.lsn)} that the subscriber has seen${shared ? `; both share it up to ${formatLsn(shared.lsn)}` : ''}.`,
      shared,
    )
  }

  /** Whether the transaction after `place` is the one at `lsn`. */
  async #isNext(place: Place, lsn: Lsn): Promise<boolean> {
    const { log } = this.#options
    if (place.offset >= log.end) return false
    await using cursor = new LogCursor(log, place)
    const piece = await cursor.read()
    return piece !== undefined && nextTransaction(piece.bytes) === lsn
  }

  /**
   * A position beyond the log: a recovery brought the log back to an older state and the same WAL is being decoded
   * again, or the database was put back. As long as the WAL reaches there, wait for the log.
   */
  async #catchUp(lsn: Lsn, signal: AbortSignal): Promise<void> {
    const { log, walEnd, catchUpMs } = this.#options
    const deadline = performance.now() + catchUpMs
    while (log.head.lsn < lsn && log.reached <= lsn) {
      const end = await walEnd()
      if (end !== undefined && end < lsn) return
      if (performance.now() >= deadline)
        throw new BeyondError('TIMEOUT', `The log has yet to reach ${formatLsn(lsn)}; it is at ${formatLsn(log.reached)}. Try again later.`)
      const { promise, resolve } = Promise.withResolvers<void>()
      const stop = log.onAdvance(resolve)
      await Promise.race([promise, sleep(1_000, undefined, { signal })]).finally(stop)
    }
  }
}

function nextTransaction(frames: Buffer): Lsn | undefined {
  let first: Lsn | undefined
  walkTransactions(frames, {
    begin: (lsn) => {
      first = lsn
      return true
    },
  })
  return first
}

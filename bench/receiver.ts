/**
 * What both readers of a measurement do with the rows that they decode: look at every column of every row, count, and note when
 * each id of the latency table came.
 */
import { now } from './processes.ts'

export const LATENCY_TABLE = 'bench_latency'

/** The answer to the task of a reader. */
export type Counted = { readonly kind: 'counted'; readonly at: number; readonly rows: number; readonly touched: number }
export type Stamps = { readonly kind: 'stamps'; readonly stamps: readonly (readonly [id: number, at: number])[] }
/** `rows`: how many make it done; Infinity to collect stamps until there is a message `collect`. */
export type Expect = { readonly rows: number }

type Row = Readonly<Record<string, unknown>>

export class Receiver {
  readonly #expected: number
  readonly #send: (answer: object) => void
  readonly #stamps: [number, number][] = []
  #collect = Infinity
  #rows = 0
  /** Characters and numbers of all columns together, so that no column goes unread. */
  #touched = 0

  constructor(expected: number, send: (answer: object) => void) {
    this.#expected = expected
    this.#send = send
  }

  row(table: string, before: Row | null, after: Row | null): void {
    if (before) this.#touch(before)
    if (after) this.#touch(after)
    if (table === LATENCY_TABLE && after) {
      this.#stamps.push([Number(after['id']), now()])
      this.#answerStamps()
    }
    if (++this.#rows === this.#expected) this.#send({ kind: 'counted', at: now(), rows: this.#rows, touched: this.#touched } satisfies Counted)
  }

  /** Sends the stamps as soon as there are so many. */
  collect(count: number): void {
    this.#collect = count
    this.#answerStamps()
  }

  #answerStamps(): void {
    if (this.#stamps.length >= this.#collect) this.#send({ kind: 'stamps', stamps: this.#stamps } satisfies Stamps)
  }

  #touch(row: Row): void {
    for (const name in row) {
      const value = row[name]
      this.#touched += typeof value === 'string' ? value.length : 1
    }
  }
}

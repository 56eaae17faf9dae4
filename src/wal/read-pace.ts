/**
 * When to let data gather in the socket between two reads. Pure: the clock is an input.
 *
 * A walsender writes message by message. Under load a reader that is woken by each write gets two or three messages per read, and
 * what a read costs, from the system call to the block of the log, is paid for each of them. A moment between two small reads
 * makes reads fifty times as large. At rest nothing is delayed: only a rate that lasts fills the bucket.
 */

/** What leaks from the bucket: a thousand small transactions a second stay below it. */
const LEAK_BYTES_PER_MS = 1024
const FULL_BYTES = 8 * 1024
/** What is above this when the load ends keeps on gathering for so long as it takes to leak. */
const MAX_BYTES = 2 * FULL_BYTES
/**
 * A read of so much was worth its cost: the next one follows at once. A Unix socket holds few small messages (by estimate
 * 280: each is charged a whole kernel buffer against net.core.wmem_default); when it is full the walsender waits for us.
 */
const LARGE_BYTES = 12 * 1024
export class ReadPace {
  #level = 0
  #at = -Infinity

  /** Notes a read; true when the next one should wait a moment. `now` in milliseconds. */
  gatherAfter(bytes: number, now: number): boolean {
    const leaked = (now - this.#at) * LEAK_BYTES_PER_MS
    this.#at = now
    this.#level = Math.min(MAX_BYTES, Math.max(0, this.#level - leaked) + bytes)
    return this.#level > FULL_BYTES && bytes < LARGE_BYTES
  }
}

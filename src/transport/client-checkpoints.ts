/**
 * Older positions of a subscriber, sparser the older they are: with them the server can name the last position that
 * two diverging histories share. Constant work per transaction, at most 64 positions whatever the length of the stream.
 */
import type { Position } from './envelopes.ts'

export const MAX_CHECKPOINTS = 64

export class Checkpoints {
  /** Level k holds the newest of the positions whose number is an odd multiple of 2^k: half as often as level k - 1. */
  readonly #levels: (Position | undefined)[] = []
  readonly #older: readonly Position[]
  #count = 0

  /** `older`: positions kept from an earlier run, newest first. */
  constructor(older: readonly Position[] = []) {
    this.#older = older.slice(0, MAX_CHECKPOINTS)
  }

  add(position: Position): void {
    this.#count = (this.#count + 1) % 0x8000_0000
    this.#levels[31 - Math.clz32(this.#count & -this.#count)] = position
  }

  /** Newest first, without duplicates, none newer than or equal to `before`. */
  list(before: Position): Position[] {
    const positions = [...this.#levels.filter((position) => position !== undefined), ...this.#older]
    const sorted = positions.filter((position) => position.lsn < before.lsn).sort((a, b) => (a.lsn > b.lsn ? -1 : a.lsn < b.lsn ? 1 : 0))
    return sorted.filter((position, i) => i === 0 || position.lsn !== sorted[i - 1].lsn).slice(0, MAX_CHECKPOINTS)
  }
}

/** The newest durable blocks, in memory, bounded in bytes: what readers near the end are served from. */
import type { BlockHeader } from './block.ts'

export type TailBlock = { readonly start: number; readonly end: number; readonly header: BlockHeader; readonly payload: Buffer }

/** What a block takes beside its payload, as measured: its header as objects, and two buffers of their own. Marks have nothing else. */
const BLOCK_OVERHEAD_BYTES = 1700
/** Evicted blocks leave a gap at the front of the array that is closed once it is this long. */
const COMPACT_AFTER = 1024

export class TailCache {
  readonly #maxBytes: number
  #blocks: (TailBlock | undefined)[] = []
  #first = 0
  #bytes = 0

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  get bytes(): number {
    return this.#bytes
  }

  /** Blocks come in the order of their offsets. One that is larger than the whole cache is left to the file. */
  push(block: TailBlock): void {
    if (weight(block) > this.#maxBytes) {
      this.#blocks = []
      this.#first = this.#bytes = 0
      return
    }
    this.#blocks.push(block)
    this.#bytes += weight(block)
    while (this.#bytes > this.#maxBytes) {
      this.#bytes -= weight(this.#blocks[this.#first]!)
      this.#blocks[this.#first++] = undefined
    }
    if (this.#first > COMPACT_AFTER && this.#first * 2 > this.#blocks.length) {
      this.#blocks = this.#blocks.slice(this.#first)
      this.#first = 0
    }
  }

  /** Forgets blocks that end after `offset`. */
  cut(offset: number): void {
    while (this.#blocks.length > this.#first && this.#blocks[this.#blocks.length - 1]!.end > offset) this.#bytes -= weight(this.#blocks.pop()!)
  }

  /** The block that begins at `offset`, or the next one when a segment ended there; undefined when it is not in memory. */
  at(offset: number): TailBlock | undefined {
    let low = this.#first
    let high = this.#blocks.length
    if (low === high || this.#blocks[low]!.start > offset) return undefined
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#blocks[middle]!.start < offset) low = middle + 1
      else high = middle
    }
    return this.#blocks[low]
  }
}

/** A payload may be a view: it holds the memory that is behind it. */
const weight = (block: TailBlock): number => block.payload.buffer.byteLength + BLOCK_OVERHEAD_BYTES

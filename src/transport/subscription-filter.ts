/**
 * Leaves changes out that a subscription did not ask for. Frames go through it as they lie in the log, cut anywhere.
 * What is left out is counted by Skip frames, so that the index of every change stays what it is for everyone; a
 * transaction of which nothing is left goes out as a Progress frame at the next heartbeat, not at all before.
 * Pure.
 */
import { envelopes, type Operation } from './envelopes.ts'
import { encodeFrame, FRAME_HEADER_BYTES, frameType, SINGLE_OBJECT_HEADER_BYTES } from './frame.ts'
import { BeyondError } from '../errors.ts'

export type FilterOptions = {
  /** Patterns of schema.table with `*` and `?`; none: all. */
  readonly tables: readonly string[]
  /** None: all. */
  readonly operations: readonly Operation[]
  /** Schema and table of a relation version. */
  readonly relation: (fingerprint: bigint) => { readonly schema: string; readonly table: string }
}

const MAX_PATTERN_BYTES = 256
const OPERATIONS = ['insert', 'update', 'delete'] as const
/** Enough of a Change to decide: single-object header and the operation. */
const CHANGE_HEAD_BYTES = SINGLE_OBJECT_HEADER_BYTES + 1

/** `*` any run of characters, `?` one; everything else is itself. Linear time: no regular expression backtracks here. */
export function matchesPattern(pattern: string, text: string): boolean {
  let p = 0
  let t = 0
  let star = -1
  let mark = 0
  while (t < text.length) {
    if (p < pattern.length && (pattern[p] === '?' || (pattern[p] === text[t] && pattern[p] !== '*'))) {
      p++
      t++
    } else if (p < pattern.length && pattern[p] === '*') {
      star = p++
      mark = t
    } else if (star !== -1) {
      p = star + 1
      t = ++mark
    } else return false
  }
  while (pattern[p] === '*') p++
  return p === pattern.length
}

export class SubscriptionFilter {
  readonly #options: FilterOptions
  readonly #operations: ReadonlySet<string>
  readonly #byFingerprint = new Map<bigint, boolean>()
  /** The Begin frame of a transaction of which nothing has gone out yet. */
  #begin: Buffer | undefined
  #skipped = 0n
  #head: Buffer[] = []
  #headBytes = 0
  /** Bytes of the current frame that are still to come, and whether they are passed on. */
  #rest = 0
  #passing = false

  constructor(options: FilterOptions) {
    for (const pattern of options.tables)
      if (pattern === '' || Buffer.byteLength(pattern) > MAX_PATTERN_BYTES)
        throw new BeyondError('BAD_REQUEST', `A table pattern has between 1 and ${MAX_PATTERN_BYTES} bytes.`)
    this.#options = options
    this.#operations = new Set(options.operations)
  }

  static needed(options: Pick<FilterOptions, 'tables' | 'operations'>): boolean {
    return options.tables.length > 0 || options.operations.length > 0
  }

  /** Nothing of the transaction that is being read has gone out: to the subscriber the stream is between transactions. */
  get holdsTransaction(): boolean {
    return this.#begin !== undefined
  }

  /** The Skip frame for what has been left out so far, in the middle of a long stretch of it; undefined within a frame. */
  takeSkip(): Buffer | undefined {
    if (this.#begin !== undefined || this.#skipped === 0n || (this.#passing && this.#rest > 0)) return undefined
    const out: Buffer[] = []
    this.#flushSkipped(out)
    return out[0]
  }

  /** What is left of `bytes`. */
  push(bytes: Buffer): Buffer[] {
    const out: Buffer[] = []
    let offset = 0
    while (offset < bytes.length) {
      if (this.#rest > 0) {
        const step = Math.min(this.#rest, bytes.length - offset)
        if (this.#passing) out.push(bytes.subarray(offset, offset + step))
        this.#rest -= step
        offset += step
        continue
      }
      const need = this.#needed()
      const step = Math.min(need - this.#headBytes, bytes.length - offset)
      this.#head.push(bytes.subarray(offset, offset + step))
      this.#headBytes += step
      offset += step
      if (this.#headBytes === this.#needed()) this.#decide(out)
    }
    return out
  }

  /** How many bytes of the current frame must be there before it can be decided on. */
  #needed(): number {
    if (this.#headBytes < FRAME_HEADER_BYTES) return FRAME_HEADER_BYTES
    const head = this.#headBuffer()
    const total = 4 + head.readUInt32BE(0)
    return head[4] === frameType.change ? Math.min(total, FRAME_HEADER_BYTES + CHANGE_HEAD_BYTES) : head[4] === frameType.message ? FRAME_HEADER_BYTES : total
  }

  #headBuffer(): Buffer {
    if (this.#head.length > 1) this.#head = [Buffer.concat(this.#head)]
    return this.#head[0]
  }

  #decide(out: Buffer[]): void {
    const head = this.#headBuffer()
    this.#head = []
    this.#headBytes = 0
    this.#rest = 4 + head.readUInt32BE(0) - head.length
    switch (head[4]) {
      case frameType.begin:
        this.#begin = Buffer.from(head)
        this.#skipped = 0n
        return
      case frameType.commit:
        if (this.#begin === undefined) {
          this.#flushSkipped(out)
          out.push(head)
        }
        this.#begin = undefined
        return
      default:
        this.#passing = this.#wanted(head)
        if (!this.#passing) {
          this.#skipped++
          return
        }
        if (this.#begin !== undefined) out.push(this.#begin)
        this.#begin = undefined
        this.#flushSkipped(out)
        out.push(head)
    }
  }

  #flushSkipped(out: Buffer[]): void {
    if (this.#skipped > 0n) out.push(encodeFrame(frameType.skip, envelopes.skip.encode({ changes: this.#skipped })))
    this.#skipped = 0n
  }

  #wanted(frame: Buffer): boolean {
    const asked = (operation: string) => this.#operations.size === 0 || this.#operations.has(operation)
    if (frame[4] === frameType.message) return asked('message')
    if (frame[4] === frameType.truncate) {
      const { relations } = envelopes.truncate.decode(frame.subarray(FRAME_HEADER_BYTES))
      return asked('truncate') && relations.some(({ schema, table }) => this.#tableWanted(schema, table))
    }
    const operation = OPERATIONS[frame[FRAME_HEADER_BYTES + SINGLE_OBJECT_HEADER_BYTES] >> 1]
    if (!asked(operation)) return false
    const fingerprint = frame.readBigUInt64LE(FRAME_HEADER_BYTES + 2)
    let wanted = this.#byFingerprint.get(fingerprint)
    if (wanted === undefined) {
      const { schema, table } = this.#options.relation(fingerprint)
      this.#byFingerprint.set(fingerprint, (wanted = this.#tableWanted(schema, table)))
    }
    return wanted
  }

  #tableWanted(schema: string, table: string): boolean {
    const { tables } = this.#options
    return tables.length === 0 || tables.some((pattern) => matchesPattern(pattern, `${schema}.${table}`))
  }
}

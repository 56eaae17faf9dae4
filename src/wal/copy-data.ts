/**
 * Cuts what a Postgres server sends into messages, and takes the CopyData messages out: under replication these are nearly all
 * of them, and a general parser spends more on each than they are worth. Pure.
 * Source: https://www.postgresql.org/docs/18/protocol-message-formats.html
 */
import { BeyondError } from '../errors.ts'

const COPY_DATA = 0x64 // d
/** Type and length, which counts itself but not the type. */
const HEADER_BYTES = 5
const EMPTY = Buffer.alloc(0)
const MIN_BYTES = 4096
/** The buffer of a longer message goes when the message is through. */
const KEPT_BYTES = 1024 * 1024

/** Bytes are views, valid during the call. */
export interface MessageSink {
  /** The payload of a CopyData message. */
  copyData(payload: Buffer): void
  /** Any other message, whole. */
  other(message: Buffer): void
}

/** However the bytes are cut into chunks. Memory is taken as bytes arrive, not as they are announced; Postgres bounds a message to 1 GB. */
export class CopyDataReader {
  readonly #sink: MessageSink
  /** An unfinished message lies in `#partial` from 0 to `#length`. */
  #partial: Buffer = EMPTY
  #length = 0

  constructor(sink: MessageSink) {
    this.#sink = sink
  }

  push(chunk: Buffer): void {
    let at = 0
    while (this.#length > 0 && at < chunk.length) at = this.#finishPartial(chunk, at)
    while (chunk.length - at >= HEADER_BYTES) {
      const end = at + messageBytes(chunk, at)
      if (end > chunk.length) break
      this.#emit(chunk, at, end)
      at = end
    }
    if (at < chunk.length) this.#keep(chunk, at, chunk.length)
  }

  /** Adds to the unfinished message what it still needs, as far as it is there; answers where the next message begins. */
  #finishPartial(chunk: Buffer, at: number): number {
    const whole = this.#length < HEADER_BYTES ? HEADER_BYTES : messageBytes(this.#partial, 0)
    const end = Math.min(chunk.length, at + whole - this.#length)
    this.#keep(chunk, at, end)
    if (this.#length >= HEADER_BYTES && this.#length === messageBytes(this.#partial, 0)) {
      const { length } = this.#partial
      this.#emit(this.#partial, 0, this.#length)
      this.#length = 0
      if (length > KEPT_BYTES) this.#partial = EMPTY
    }
    return end
  }

  #keep(chunk: Buffer, from: number, to: number): void {
    const needed = this.#length + to - from
    if (needed > this.#partial.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(needed, 2 * this.#partial.length, MIN_BYTES))
      this.#partial.copy(larger, 0, 0, this.#length)
      this.#partial = larger
    }
    chunk.copy(this.#partial, this.#length, from, to)
    this.#length = needed
  }

  #emit(bytes: Buffer, start: number, end: number): void {
    if (bytes[start] === COPY_DATA) this.#sink.copyData(bytes.subarray(start + HEADER_BYTES, end))
    else this.#sink.other(bytes.subarray(start, end))
  }
}

/** Of the whole message whose header is at `at`. */
function messageBytes(bytes: Buffer, at: number): number {
  const length = 1 + bytes.readUInt32BE(at + 1)
  if (length < HEADER_BYTES) throw new BeyondError('BAD_REPLICATION_DATA', 'Postgres sent a message that is shorter than its own header.')
  return length
}

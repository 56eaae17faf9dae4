/**
 * Frames: how envelopes and changes are laid out on a stream and, the same bytes, in the change log.
 *
 *     u32 big-endian   length of all that follows
 *     u8               type
 *     body             Avro binary of the envelope of that type; of a Change: Avro single-object encoding
 *
 * Pure: chunks go in, frames come out. docs/protocol.md is the specification.
 */
import { BeyondError } from '../errors.ts'

export const frameType = {
  subscribe: 1,
  ack: 2,
  statusRequest: 3,
  welcome: 16,
  schema: 17,
  begin: 18,
  change: 19,
  truncate: 20,
  message: 21,
  skip: 22,
  commit: 23,
  progress: 24,
  end: 25,
  status: 26,
} as const
export type FrameType = (typeof frameType)[keyof typeof frameType]

export const PROTOCOL_VERSION = 1
export const ALPN = 'beyond-cdc/1'
export const FRAME_HEADER_BYTES = 5
/** Longest frame that a server accepts from a client. */
export const MAX_CLIENT_FRAME_BYTES = 64 * 1024
/** Longest frame that a client accepts by default: Postgres bounds a value, and nearly a row, to 1 GB. */
export const MAX_SERVER_FRAME_BYTES = 1024 * 1024 * 1024

/** A Change body: marker C3 01, fingerprint (8 bytes), then the datum (Avro 1.12, "Single-object encoding"). */
export const SINGLE_OBJECT_MARKER = 0xc301
export const SINGLE_OBJECT_HEADER_BYTES = 10

const KEPT_BYTES = 1024 * 1024

export function encodeFrame(type: FrameType, body: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(FRAME_HEADER_BYTES + body.length)
  frame.writeUInt32BE(body.length + 1, 0)
  frame[4] = type
  frame.set(body, FRAME_HEADER_BYTES)
  return frame
}

/** `body` is a view into the reader's memory: valid until the next call of `push`. */
export type Frame = { readonly type: number; readonly body: Buffer }

/**
 * Cuts a stream of bytes into frames, however it arrives in chunks. Memory is bounded by `maxFrameBytes`:
 * a longer frame is a PROTOCOL_VIOLATION as soon as its length is known, and space is taken as bytes arrive, not as
 * they are announced.
 */
export class FrameReader {
  readonly #maxFrameBytes: number
  #pending: Buffer = Buffer.alloc(0)
  #start = 0
  #end = 0

  constructor(maxFrameBytes: number) {
    this.#maxFrameBytes = maxFrameBytes
  }

  /** Bytes of an unfinished frame. At the end of a stream anything but 0 means that it was cut. */
  get pendingBytes(): number {
    return this.#end - this.#start
  }

  /** Calls `onFrame` for each frame that is complete. */
  push(chunk: Uint8Array, onFrame: (frame: Frame) => void): void {
    let source: Buffer
    let offset = 0
    let end: number
    if (this.pendingBytes === 0) {
      source = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
      end = source.length
    } else {
      this.#append(chunk)
      source = this.#pending
      offset = this.#start
      end = this.#end
    }
    while (end - offset >= 4) {
      const length = source.readUInt32BE(offset)
      if (length < 1 || length > this.#maxFrameBytes)
        throw new BeyondError('PROTOCOL_VIOLATION', `A frame announces ${length} bytes; between 1 and ${this.#maxFrameBytes} are allowed.`)
      if (end - offset - 4 < length) break
      onFrame({ type: source[offset + 4], body: source.subarray(offset + FRAME_HEADER_BYTES, offset + 4 + length) })
      offset += 4 + length
    }
    if (source === this.#pending) {
      this.#start = offset
      if (offset === end) this.#reset()
    } else if (offset < end) {
      this.#start = this.#end = 0
      this.#append(source.subarray(offset, end))
    }
  }

  /** A frame of a gigabyte must not hold its memory once it is through. */
  #reset(): void {
    this.#start = this.#end = 0
    if (this.#pending.length > KEPT_BYTES) this.#pending = Buffer.alloc(0)
  }

  #append(chunk: Uint8Array): void {
    const needed = this.pendingBytes + chunk.length
    if (this.#end + chunk.length > this.#pending.length) {
      const target = needed > this.#pending.length ? Buffer.allocUnsafe(Math.max(needed, this.#pending.length * 2, 4096)) : this.#pending
      this.#pending.copy(target, 0, this.#start, this.#end)
      this.#pending = target
      this.#end -= this.#start
      this.#start = 0
    }
    this.#pending.set(chunk, this.#end)
    this.#end += chunk.length
  }
}

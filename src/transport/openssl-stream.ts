/**
 * One bidirectional QUIC stream over an SSL object of OpenSSL, which it owns and frees exactly once: when both directions have
 * ended, when it is reset, or with its connection. Afterwards every call is a harmless no-op.
 */
import { BeyondError } from '../errors.ts'
import { callOut, type Attended, type Engine, type Polled } from './openssl-engine.ts'
import * as ffi from './openssl-ffi.ts'
import type { QuicStream } from './quic.ts'

/**
 * Most bytes of one stream that wait for acknowledgement. OpenSSL by itself takes up to 6 MiB, or what the peer's flow control
 * allows (512 KiB from an OpenSSL peer whose application does not read). Bounds the rate of one stream to 1 MiB per round trip.
 */
export const MAX_UNACKNOWLEDGED_BYTES = 1024 * 1024
/** After a short write, there is room again when no more than this waits. */
const ROOM_AGAIN_BYTES = MAX_UNACKNOWLEDGED_BYTES / 2

const ALWAYS = ffi.pollEvent.ER | ffi.pollEvent.EW
const count = new Uint32Array(2)
const value = new BigUint64Array(1)
const resetArgs = new BigUint64Array(1)
const nothing = (): void => {}

export type StreamOwner = {
  readonly engine: Engine
  streamFreed(stream: OpensslStream): void
}

export class OpensslStream implements QuicStream, Polled, Attended {
  readonly id: bigint
  readonly isRemote: boolean
  /** As attended: a stream that waits for room has no deadline of its own. */
  readonly deadline = Infinity
  #ssl: ffi.Pointer
  #slot: number
  readonly #owner: StreamOwner
  /** `lost`: reset by the peer or by the end of the connection; `onClosed` tells. */
  #state: 'open' | 'lost' | 'done' = 'open'
  /** finish() was called. */
  #sendEnded = false
  /** The end of the peer's bytes was read. */
  #receiveEnded = false
  /** The last read found nothing: the next bytes are news. */
  #wantsRead = true
  #wantsRoom: 'no' | 'flow control' | 'buffer' = 'no'
  /** So much may certainly be written before asking again what waits. */
  #room = MAX_UNACKNOWLEDGED_BYTES
  /** onClosed is due and has not been called, for want of a callback. */
  #closedUnheard = false
  #onReadable = nothing
  #onClosed = nothing
  onWritable = nothing

  constructor(owner: StreamOwner, ssl: ffi.Pointer, isRemote: boolean) {
    this.#owner = owner
    this.#ssl = ssl
    this.isRemote = isRemote
    this.id = BigInt(ffi.SSL_get_stream_id(ssl))
    this.#slot = owner.engine.table.add(ssl, this.#events(), this)
  }

  get onReadable(): () => void {
    return this.#onReadable
  }

  /** Whoever listens late learns of what has arrived before. */
  set onReadable(callback: () => void) {
    this.#onReadable = callback
    if (this.#state !== 'open' || this.#receiveEnded) return
    this.#wantsRead = true
    this.#rearm()
    this.#owner.engine.touch()
  }

  get onClosed(): () => void {
    return this.#onClosed
  }

  set onClosed(callback: () => void) {
    this.#onClosed = callback
    if (this.#closedUnheard && callback !== nothing) setImmediate(() => this.#tellClosed())
  }

  write(bytes: Uint8Array): number {
    if (this.#state !== 'open' || this.#sendEnded || bytes.length === 0) return 0
    if (this.#room < bytes.length) this.#room = MAX_UNACKNOWLEDGED_BYTES - this.#unacknowledged()
    const length = Math.min(bytes.length, this.#room)
    let written = 0
    if (length > 0 && ffi.SSL_write_ex(this.#ssl, bytes, length, count) === 1) {
      written = count[0]!
      this.#room -= written
      this.#owner.engine.touch()
    }
    if (written < bytes.length) this.#awaitRoom(written < length ? 'flow control' : 'buffer')
    return written
  }

  read(into: Uint8Array): number {
    if (this.#state !== 'open' || this.#receiveEnded) return -1
    if (into.length === 0) return 0
    if (ffi.SSL_read_ex(this.#ssl, into, into.length, count) === 1) {
      // The peer gets new credit for what was read.
      this.#owner.engine.touch()
      return count[0]!
    }
    const error = ffi.SSL_get_error(this.#ssl, 0)
    ffi.ERR_clear_error()
    if (error === ffi.SSL_ERROR_ZERO_RETURN) {
      this.#receiveEnded = true
      this.#rearm()
      this.#freeIfDone()
      return -1
    }
    // A reset is no end of the stream: what is missing must not look complete. onClosed follows.
    this.#wantsRead = error === ffi.SSL_ERROR_WANT_READ
    this.#rearm()
    return 0
  }

  finish(): void {
    if (this.#state !== 'open' || this.#sendEnded) return
    this.#sendEnded = true
    this.#awaitRoom('no')
    ffi.SSL_stream_conclude(this.#ssl, 0)
    this.#owner.engine.touch()
    this.#freeIfDone()
  }

  reset(code: bigint): void {
    if (this.#state !== 'open') return
    this.#state = 'done'
    resetArgs[0] = code
    ffi.SSL_stream_reset(this.#ssl, resetArgs as unknown as Uint8Array, 8)
    // Freeing it sends STOP_SENDING for the other direction, for which there is no call.
    this.#free()
    this.#owner.engine.touch()
  }

  /** The connection has ended. The object is freed at once, the application told by `tellLost`. */
  lose(): void {
    if (this.#state !== 'open') return
    this.#state = 'lost'
    this.#free()
  }

  /** The application ended the connection: no more calls, but what was written is still delivered until `lose`. */
  freeze(): void {
    this.#sendEnded = true
    this.#receiveEnded = true
    this.#awaitRoom('no')
    this.#owner.engine.table.want(this.#slot, 0)
  }

  tellLost(): void {
    if (this.#state === 'lost') this.#tellClosed()
  }

  onEvents(events: number): void {
    if (this.#state !== 'open') return
    if (events & ffi.pollEvent.R) {
      // Once per news: an application that does not read on must not keep the engine busy.
      this.#wantsRead = false
      this.#rearm()
      callOut(this.#onReadable)
    }
    if (events & ffi.pollEvent.W && this.#wantsRoom === 'flow control') this.#tellWritable()
    if (events & ALWAYS && this.#state === 'open') {
      this.lose()
      this.#owner.engine.touch()
      this.#tellClosed()
    }
  }

  attend(): void {
    if (this.#wantsRoom === 'buffer' && this.#unacknowledged() <= ROOM_AGAIN_BYTES) this.#tellWritable()
  }

  #tellWritable(): void {
    this.#awaitRoom('no')
    callOut(() => this.onWritable())
  }

  #tellClosed(): void {
    this.#closedUnheard = this.#onClosed === nothing
    if (!this.#closedUnheard) callOut(this.#onClosed)
    if (!this.#closedUnheard) this.#onClosed = nothing
  }

  /** OpenSSL tells when flow control gives room; our own bound on the buffer we watch ourselves. */
  #awaitRoom(what: 'no' | 'flow control' | 'buffer'): void {
    if (this.#wantsRoom === what) return
    this.#wantsRoom = what
    if (what === 'buffer') this.#owner.engine.attended.add(this)
    else this.#owner.engine.attended.delete(this)
    this.#rearm()
  }

  #unacknowledged(): number {
    ffi.SSL_get_value_uint(this.#ssl, ffi.SSL_VALUE_CLASS_GENERIC, ffi.SSL_VALUE_STREAM_WRITE_BUF_USED, value as unknown as Uint8Array)
    return Number(value[0])
  }

  #events(): number {
    let events: number = this.#receiveEnded ? ffi.pollEvent.EW : ALWAYS
    // After the end was read, OpenSSL reports R for ever.
    if (this.#wantsRead && !this.#receiveEnded) events |= ffi.pollEvent.R
    if (this.#wantsRoom === 'flow control') events |= ffi.pollEvent.W
    return events
  }

  #rearm(): void {
    if (this.#ssl !== 0) this.#owner.engine.table.want(this.#slot, this.#events())
  }

  #freeIfDone(): void {
    if (!this.#sendEnded || !this.#receiveEnded || this.#state !== 'open') return
    this.#state = 'done'
    this.#free()
  }

  #free(): void {
    if (this.#ssl === 0) return
    this.#owner.engine.attended.delete(this)
    this.#owner.engine.table.remove(this.#slot)
    const ssl = this.#ssl
    this.#ssl = 0
    ffi.SSL_free(ssl)
    this.#owner.streamFreed(this)
  }
}

/** What openStream gives on a connection that has ended: nothing but the news of it. */
export class DeadStream implements QuicStream {
  readonly id = -1n
  onReadable = nothing
  onWritable = nothing
  onClosed = nothing

  constructor() {
    setImmediate(() => callOut(this.onClosed))
  }

  write(): number {
    return 0
  }

  read(): number {
    return -1
  }

  finish(): void {}
  reset(): void {}
}

export function tooManyStreams(): BeyondError {
  return new BeyondError('TOO_MANY', 'The peer allows no more streams in this connection now: end some first.')
}

/**
 * A QUIC connection over an SSL object of OpenSSL, dialed or accepted. Owns the object and its streams.
 *
 *     handshaking → open → draining (close() was called, written bytes on their way) → lingering (CONNECTION_CLOSE sent) → freed
 *
 * Every state can go to freed. While draining and lingering the application's side is over already.
 */
import { X509Certificate } from 'node:crypto'
import { callOut, type Attended, type Engine, type Polled } from './openssl-engine.ts'
import * as ffi from './openssl-ffi.ts'
import { DeadStream, OpensslStream, tooManyStreams } from './openssl-stream.ts'
import type { CloseInfo, QuicAddress, QuicConnection, QuicStream } from './quic.ts'

/** How long close() waits for the peer to acknowledge what was written. */
const DRAIN_MS = 1000
/** How long a closed connection repeats its CONNECTION_CLOSE to a peer that missed it, at most; three probe timeouts otherwise. */
const LINGER_MS = 500
/** RFC 9000, 20.2: reset code of a stream that is over the limit or of a kind that is not served. */
export const STREAM_REFUSED_CODE = 1n
const IDLE_TIMEOUT_CODE = 2n ** 64n - 1n

const nothing = (): void => {}

export type ConnectionOwner = {
  readonly engine: Engine
  readonly maxStreams: number
  /** Called once, in a turn: the handshake is complete and the peer verified, or else false and the connection is refused. */
  established(connection: OpensslConnection): void
  /** Called once, in a turn, instead of `established`. */
  handshakeFailed(connection: OpensslConnection, info: CloseInfo, verifyResult: number): void
  /** Called once, in a turn, whatever came before. */
  freed(connection: OpensslConnection): void
}

export class OpensslConnection implements QuicConnection, Polled, Attended {
  readonly engine: Engine
  readonly ssl: ffi.Pointer
  readonly remote: QuicAddress
  peerName = ''
  readonly #owner: ConnectionOwner
  readonly #isServer: boolean
  readonly #alpn: string
  readonly #slot: number
  readonly #streams = new Set<OpensslStream>()
  #remoteStreams = 0
  #state: 'handshaking' | 'open' | 'draining' | 'lingering' | 'freed' = 'handshaking'
  #deadline: number
  #wasOpen = false
  #closeArgs: CloseArgs | undefined
  #closeInfo: CloseInfo | undefined
  /** The end was seen in the last round; streams have had the chance to read what came before it. */
  #endSeen = false
  #closedUnheard = false
  #onStream: (stream: QuicStream) => void = nothing
  #onClosed: (info: CloseInfo) => void = nothing

  /** Takes over `ssl`. `deadline`: of the handshake, in ms of performance.now(). */
  constructor(owner: ConnectionOwner, ssl: ffi.Pointer, remote: QuicAddress, isServer: boolean, alpn: string, deadline: number) {
    this.#owner = owner
    this.engine = owner.engine
    this.ssl = ssl
    this.#isServer = isServer
    this.#alpn = alpn
    this.#deadline = deadline
    this.remote = remote
    ffi.SSL_set_blocking_mode(ssl, 0)
    ffi.SSL_set_value_uint(ssl, ffi.SSL_VALUE_CLASS_GENERIC, ffi.SSL_VALUE_EVENT_HANDLING_MODE, ffi.SSL_VALUE_EVENT_HANDLING_MODE_EXPLICIT)
    ffi.SSL_set_default_stream_mode(ssl, ffi.SSL_DEFAULT_STREAM_MODE_NONE)
    ffi.SSL_set_incoming_stream_policy(ssl, ffi.SSL_INCOMING_STREAM_POLICY_ACCEPT, 0)
    ffi.SSL_ctrl(ssl, ffi.SSL_CTRL_MODE, ffi.SSL_MODE_ENABLE_PARTIAL_WRITE | ffi.SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, 0)
    this.#slot = this.engine.table.add(ssl, ffi.pollEvent.EC, this)
    this.engine.attended.add(this)
  }

  get deadline(): number {
    return this.#deadline
  }

  get isFreed(): boolean {
    return this.#state === 'freed'
  }

  get onStream(): (stream: QuicStream) => void {
    return this.#onStream
  }

  /** Streams of the peer wait, within its flow control, until someone listens. */
  set onStream(callback: (stream: QuicStream) => void) {
    this.#onStream = callback
    this.#rearm()
    this.engine.touch()
  }

  get onClosed(): (info: CloseInfo) => void {
    return this.#onClosed
  }

  set onClosed(callback: (info: CloseInfo) => void) {
    this.#onClosed = callback
    if (this.#closedUnheard && callback !== nothing) setImmediate(() => this.#tellClosed())
  }

  openStream(): QuicStream {
    if (this.#state !== 'open') return new DeadStream()
    const ssl = ffi.SSL_new_stream(this.ssl, ffi.SSL_STREAM_FLAG_NO_BLOCK)
    if (ssl === 0) {
      ffi.ERR_clear_error()
      if (closeInfoOf(this.ssl) !== undefined) return new DeadStream()
      throw tooManyStreams()
    }
    const stream = new OpensslStream(this, ssl, false)
    this.#streams.add(stream)
    return stream
  }

  close(code: bigint = 0n, reason = ''): void {
    if (this.#state !== 'open' && this.#state !== 'handshaking') return
    this.#closeArgs = new CloseArgs(code, reason)
    this.#state = 'draining'
    this.#deadline = performance.now() + DRAIN_MS
    for (const stream of this.#streams) stream.freeze()
    this.#rearm()
    this.engine.attended.add(this)
    this.engine.touch()
  }

  /** Ends it without a word to the application, which has not heard of it. */
  refuse(): void {
    this.close()
  }

  streamFreed(stream: OpensslStream): void {
    this.#streams.delete(stream)
    if (stream.isRemote) this.#remoteStreams--
  }

  onEvents(events: number): void {
    if (events & (ffi.pollEvent.ISB | ffi.pollEvent.ISU)) this.#acceptStreams()
    if (events & ffi.pollEvent.ECD && this.#state === 'lingering') this.#free()
    else if (events & ffi.pollEvent.EC) this.#onEnd()
  }

  attend(now: number): void {
    switch (this.#state) {
      case 'handshaking':
        if (this.#isHandshakeDone()) this.#establish()
        else if (now >= this.#deadline) this.#giveUpHandshake()
        break
      case 'draining':
        if (now < this.#deadline && this.#isUnconfirmed()) break
        // Answers 0 while written bytes are unacknowledged, then closes; the EC event tells that it has.
        this.#shutdown(now < this.#deadline && this.#wasOpen ? 0 : ffi.SSL_SHUTDOWN_FLAG_NO_STREAM_FLUSH)
        if (closeInfoOf(this.ssl) !== undefined) this.engine.touch()
        break
      case 'lingering':
        if (now >= this.#deadline) this.#free()
        break
      case 'open':
      case 'freed':
        this.engine.attended.delete(this)
    }
  }

  /**
   * A client's own handshake is complete before the server has looked at its certificate; it is confirmed by HANDSHAKE_DONE,
   * after that. Without the difference a refused client would think for a round trip that it is connected.
   */
  #isHandshakeDone(): boolean {
    if (ffi.SSL_do_handshake(this.ssl) !== 1) {
      ffi.ERR_clear_error()
      return false
    }
    return this.#isServer || ffi.ossl_quic_channel_is_handshake_confirmed(ffi.ossl_quic_conn_get_channel(this.ssl)) === 1
  }

  /**
   * A client between the two. The CONNECTION_CLOSE that OpenSSL 3.5 sends then can't be read by a server that has just completed its
   * side, which would keep the connection until its idle timeout.
   */
  #isUnconfirmed(): boolean {
    if (this.#isServer || this.#wasOpen) return false
    const isComplete = ffi.SSL_do_handshake(this.ssl) === 1
    ffi.ERR_clear_error()
    return isComplete && !this.#isHandshakeDone()
  }

  #establish(): void {
    const certificate = ffi.SSL_get0_peer_certificate(this.ssl)
    const isVerified = certificate !== 0 && ffi.SSL_get_verify_result(this.ssl) === ffi.X509_V_OK
    // OpenSSL has refused all else already; that nobody gets in without is worth looking twice.
    if (!isVerified || selectedAlpn(this.ssl) !== this.#alpn) {
      this.close(0n, '')
      return
    }
    this.peerName = commonName(certificate)
    this.#state = 'open'
    this.#wasOpen = true
    this.#deadline = Infinity
    this.engine.attended.delete(this)
    this.#rearm()
    this.#owner.established(this)
  }

  #giveUpHandshake(): void {
    const info = { code: 0n, reason: 'the handshake took too long', remote: false, application: false }
    this.#closeArgs = new CloseArgs(0n, '')
    this.#shutdown(ffi.SSL_SHUTDOWN_FLAG_NO_STREAM_FLUSH)
    this.engine.touch()
    this.#state = 'lingering'
    this.#deadline = performance.now() + LINGER_MS
    this.#closeInfo = info
    this.#rearm()
    this.#owner.handshakeFailed(this, info, ffi.X509_V_OK)
  }

  #acceptStreams(): void {
    while (this.#state === 'open' && this.#onStream !== nothing) {
      const ssl = ffi.SSL_accept_stream(this.ssl, ffi.SSL_ACCEPT_STREAM_NO_BLOCK)
      if (ssl === 0) break
      const stream = new OpensslStream(this, ssl, true)
      this.#streams.add(stream)
      this.#remoteStreams++
      if (ffi.SSL_get_stream_type(ssl) !== ffi.SSL_STREAM_TYPE_BIDI || this.#remoteStreams > this.#owner.maxStreams) {
        stream.reset(STREAM_REFUSED_CODE)
        continue
      }
      callOut(() => this.#onStream(stream))
    }
  }

  /** The connection is closing or closed, by whichever side. */
  #onEnd(): void {
    switch (this.#state) {
      case 'handshaking': {
        const info = closeInfoOf(this.ssl) ?? UNKNOWN_END
        this.#owner.handshakeFailed(this, info, ffi.SSL_get_verify_result(this.ssl))
        this.#free()
        break
      }
      case 'open':
        // What arrived before the end can still be read, in this round.
        if (!this.#endSeen) {
          this.#endSeen = true
          this.engine.touch()
          break
        }
        this.#tellEnd(closeInfoOf(this.ssl) ?? UNKNOWN_END)
        this.#free()
        break
      case 'draining': {
        const info = closeInfoOf(this.ssl) ?? UNKNOWN_END
        this.#state = 'lingering'
        this.#deadline = performance.now() + LINGER_MS
        this.#rearm()
        this.#tellEnd(info)
        // Who never was let in is not worth the memory of repeating it.
        if (info.remote || !info.application || !this.#wasOpen) this.#free()
        break
      }
      case 'lingering':
      case 'freed':
    }
  }

  #tellEnd(info: CloseInfo): void {
    this.#closeInfo = info
    const streams = [...this.#streams]
    for (const stream of streams) stream.lose()
    for (const stream of streams) stream.tellLost()
    this.#tellClosed()
  }

  #tellClosed(): void {
    const callback = this.#onClosed
    this.#closedUnheard = callback === nothing
    if (callback === nothing) return
    this.#onClosed = nothing
    callOut(() => callback(this.#closeInfo ?? UNKNOWN_END))
  }

  #shutdown(flags: number): void {
    const args = this.#closeArgs ?? new CloseArgs(0n, '')
    ffi.SSL_shutdown_ex(this.ssl, flags | ffi.SSL_SHUTDOWN_FLAG_NO_BLOCK, args.bytes, args.bytes.length)
  }

  #rearm(): void {
    if (this.#state === 'freed') return
    let events: number = this.#state === 'lingering' ? ffi.pollEvent.ECD : ffi.pollEvent.EC
    if (this.#state === 'open' && this.#onStream !== nothing) events |= ffi.pollEvent.ISB | ffi.pollEvent.ISU
    this.engine.table.want(this.#slot, events)
  }

  #free(): void {
    if (this.#state === 'freed') return
    this.#state = 'freed'
    this.engine.attended.delete(this)
    this.engine.table.remove(this.#slot)
    for (const stream of this.#streams) stream.lose()
    ffi.SSL_free(this.ssl)
    this.engine.touch()
    this.#owner.freed(this)
  }
}

const UNKNOWN_END: CloseInfo = { code: 0n, reason: 'unknown', remote: false, application: false }

/** SSL_SHUTDOWN_EX_ARGS: the code (u64) and a pointer to the reason, NUL-terminated. Owns the memory of both. */
class CloseArgs {
  readonly bytes: Buffer
  readonly #reason: Buffer

  constructor(code: bigint, reason: string) {
    this.#reason = Buffer.from(`${reason.replaceAll('\0', ' ').slice(0, 256)}\0`)
    this.bytes = Buffer.alloc(16)
    this.bytes.writeBigUInt64LE(code, 0)
    this.bytes.writeBigUInt64LE(ffi.addressOf(this.#reason), 8)
  }
}

/** SSL_CONN_CLOSE_INFO: code, frame type (u64 each), reason (char *), its length (size_t), flags (u32). */
const closeInfo = Buffer.alloc(40)

function closeInfoOf(ssl: ffi.Pointer): CloseInfo | undefined {
  if (ffi.SSL_get_conn_close_info(ssl, closeInfo, closeInfo.length) !== 1) return undefined
  const flags = closeInfo.readUInt32LE(32)
  const code = closeInfo.readBigUInt64LE(0)
  const reason = ffi.bytesAt(Number(closeInfo.readBigUInt64LE(16)), Number(closeInfo.readBigUInt64LE(24))).toString()
  return {
    code,
    reason: reason.replace(/\0+$/, '') || (code === IDLE_TIMEOUT_CODE ? 'idle timeout' : ''),
    remote: (flags & ffi.SSL_CONN_CLOSE_FLAG_LOCAL) === 0,
    application: (flags & ffi.SSL_CONN_CLOSE_FLAG_TRANSPORT) === 0,
  }
}

const alpnPointer = new BigUint64Array(1)
const alpnLength = new Uint32Array(1)

function selectedAlpn(ssl: ffi.Pointer): string {
  ffi.SSL_get0_alpn_selected(ssl, alpnPointer as unknown as Uint8Array, alpnLength)
  return ffi.bytesAt(Number(alpnPointer[0]), alpnLength[0]!).toString('latin1')
}

function commonName(certificate: ffi.Pointer): string {
  const der = Buffer.alloc(ffi.i2d_X509(certificate, 0))
  // i2d_X509 writes through a pointer to the place, and moves it on.
  const place = new BigUint64Array([ffi.addressOf(der)])
  ffi.i2d_X509(certificate, place as unknown as Uint8Array)
  const { CN } = new X509Certificate(der).toLegacyObject().subject as { CN?: string | string[] }
  return (Array.isArray(CN) ? CN.at(-1) : CN) ?? ''
}

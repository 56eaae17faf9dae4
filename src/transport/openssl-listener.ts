/**
 * A QUIC listener: admits, accepts and bounds connections. Owns its socket, its TLS context, its engines and their connections.
 *
 * Connections are spread over engines by the address of the peer, so that the work for a datagram does not grow with the number of
 * connections: SSL_handle_events looks at all of its engine's. OpenSSL 3.5 follows no peer to another address, so a
 * connection stays where it is.
 */
import { BeyondError } from '../errors.ts'
import { OpensslConnection, type ConnectionOwner } from './openssl-connection.ts'
import { createContext, takeError } from './openssl-credentials.ts'
import { callOut, Driver, Engine, type Polled } from './openssl-engine.ts'
import * as ffi from './openssl-ffi.ts'
import { Receiver } from './openssl-receiver.ts'
import { bindUdp, type UdpSocket } from './openssl-socket.ts'
import type { ListenOptions, QuicAddress, QuicConnection, QuicListener, QuicLimits } from './quic.ts'

/** Before an engine whose socket has failed is opened again. */
const REOPEN_MS = 100
/** Connections per engine when the listener is full and the peers spread evenly. */
const CONNECTIONS_PER_ENGINE = 8
const MAX_ENGINES = 256
const NO_ADDRESS: QuicAddress = { host: '', port: 0 }

/** `options.address.host` is an IP address. */
export function listenAt(options: ListenOptions): QuicListener {
  const ctx = createContext('server', options.credentials)
  try {
    return new OpensslListener(options, ctx, bindUdp(options.address))
  } catch (error) {
    ffi.SSL_CTX_free(ctx)
    throw error
  }
}

class OpensslListener implements QuicListener {
  readonly address: QuicAddress
  readonly driver: Driver
  readonly limits: QuicLimits
  readonly alpn: string
  onConnection: (connection: QuicConnection) => void = () => {}
  readonly #ctx: ffi.Pointer
  readonly #socket: UdpSocket
  readonly #id: number
  readonly #receiver: Receiver
  /** Made when the first datagram for it arrives. */
  readonly #shards: (Shard | undefined)[]
  /** Senders of the first datagrams of connections that are not freed, by SSL object. */
  readonly #peers = new Map<ffi.Pointer, QuicAddress>()
  /** Connections that count: since their ClientHello was let in, until they are freed. */
  readonly #admitted = new Set<ffi.Pointer>()
  readonly #perAddress = new Map<string, number>()
  readonly #connections = new Set<OpensslConnection>()
  #closing: PromiseWithResolvers<void> | undefined

  /** Takes over the socket, and the context unless it throws. */
  constructor({ limits, alpn }: ListenOptions, ctx: ffi.Pointer, socket: UdpSocket) {
    this.limits = limits
    this.alpn = alpn
    this.#ctx = ctx
    this.#socket = socket
    this.address = socket.local
    const engines = Math.min(Math.max(1, Math.ceil(limits.maxConnections / CONNECTIONS_PER_ENGINE)), MAX_ENGINES)
    this.#shards = Array.from({ length: engines })
    this.#receiver = new Receiver(socket.fd)
    this.#id = registry.add(this)
    ffi.SSL_CTX_set_alpn_select_cb(ctx, registry.alpnSelect, this.#id)
    ffi.SSL_CTX_set_new_pending_conn_cb(ctx, registry.newPending, this.#id)
    ffi.SSL_CTX_set_client_hello_cb(ctx, registry.clientHello, this.#id)
    this.driver = new Driver(socket, () => this.#receive())
    try {
      // One is made now: what is wrong shows here rather than with the first client.
      this.#shards[0] = new Shard(this)
    } catch (error) {
      this.#release()
      throw error
    }
  }

  get isClosing(): boolean {
    return this.#closing !== undefined
  }

  close(code = 0n, reason = ''): Promise<void> {
    if (this.#closing !== undefined) return this.#closing.promise
    this.#closing = Promise.withResolvers<void>()
    for (const connection of this.#connections) connection.close(code, reason)
    this.#endIfEmpty()
    return this.#closing.promise
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** A listening SSL object that writes to the socket and reads nothing: the receiver does. */
  openRoot(): ffi.Pointer {
    ffi.ERR_clear_error()
    // No flags: addresses are validated by Retry before any state is kept.
    const root = ffi.SSL_new_listener(this.#ctx, 0)
    const bio = root === 0 ? 0 : ffi.BIO_new_dgram(this.#socket.fd, 0)
    if (bio !== 0) {
      ffi.SSL_set0_wbio(root, bio)
      if (ffi.SSL_set_blocking_mode(root, 0) === 1 && ffi.SSL_listen(root) === 1) return root
    }
    const reason = takeError()
    if (root !== 0) ffi.SSL_free(root)
    throw new BeyondError('INTERNAL', `OpenSSL does not listen: ${reason}.`)
  }

  /** A connection that OpenSSL has made. */
  accepted(shard: Shard, ssl: ffi.Pointer): void {
    // Not even a farewell: clients that dial again and again would keep a listener from closing for ever.
    if (this.isClosing) {
      this.#peers.delete(ssl)
      ffi.SSL_free(ssl)
      return
    }
    const peer = this.#peers.get(ssl) ?? NO_ADDRESS
    const connection = new OpensslConnection(shard, ssl, peer, true, this.alpn, performance.now() + this.limits.handshakeTimeoutMs)
    this.#connections.add(connection)
    // A ClientHello of several datagrams may not be complete yet: it is counted now. A refused one has ended by itself.
    if (!this.admit(ssl)) connection.refuse()
  }

  freed(connection: OpensslConnection): void {
    this.#connections.delete(connection)
    this.#peers.delete(connection.ssl)
    if (this.#admitted.delete(connection.ssl)) {
      const { host } = connection.remote
      const rest = this.#perAddress.get(host)! - 1
      if (rest === 0) this.#perAddress.delete(host)
      else this.#perAddress.set(host, rest)
    }
    this.#endIfEmpty()
  }

  /** OpenSSL has made a connection out of the datagram that it was given last. */
  begin(ssl: ffi.Pointer): void {
    this.#peers.set(ssl, this.#receiver.currentPeer())
  }

  /**
   * Whether a connection may go on, asked when its ClientHello is in, before any public key operation; counts it. The address has
   * been validated by then (Retry). Runs within SSL_handle_events, OpenSSL's lock held: calls here must not take it.
   */
  admit(ssl: ffi.Pointer): boolean {
    if (this.#admitted.has(ssl)) return true
    const { host } = this.#peers.get(ssl) ?? NO_ADDRESS
    const fromThere = this.#perAddress.get(host) ?? 0
    const { maxConnections, maxConnectionsPerAddress, idleTimeoutMs } = this.limits
    if (this.isClosing || this.#admitted.size >= maxConnections || fromThere >= maxConnectionsPerAddress) return false
    this.#admitted.add(ssl)
    this.#perAddress.set(host, fromThere + 1)
    // The public SSL_set_value_uint takes the lock, and after this moment our transport parameters are written.
    ffi.ossl_quic_channel_set_max_idle_timeout_request(ffi.ossl_quic_conn_get_channel(ssl), idleTimeoutMs)
    return true
  }

  /** Answers the offset and length of our protocol in the client's list (RFC 7301: entries with a length byte before them). */
  selectAlpn(list: Buffer): { offset: number; length: number } | undefined {
    for (let at = 0; at < list.length; at += 1 + list[at]!) {
      const length = list[at]!
      if (list.toString('latin1', at + 1, at + 1 + length) === this.alpn) return { offset: at + 1, length }
    }
    return undefined
  }

  #receive(): void {
    if (this.#receiver.receive(this.#route)) this.driver.readAgain()
  }

  readonly #route = (hash: number): ffi.Pointer => {
    const index = hash % this.#shards.length
    if (this.isClosing && this.#shards[index] === undefined) return 0
    const shard = (this.#shards[index] ??= new Shard(this))
    this.driver.wake(shard.engine)
    return shard.root
  }

  #endIfEmpty(): void {
    if (this.#closing === undefined || this.#connections.size > 0 || !this.driver.isOpen) return
    this.#release()
    ffi.SSL_CTX_free(this.#ctx)
    this.#closing.resolve()
  }

  #release(): void {
    for (const shard of this.#shards) shard?.free()
    this.driver.close()
    this.#receiver.free()
    registry.remove(this.#id)
  }
}

/** One engine of the listener. */
class Shard implements ConnectionOwner, Polled {
  readonly engine: Engine
  readonly maxStreams: number
  readonly #listener: OpensslListener
  #root: ffi.Pointer
  #slot: number
  #reopenTimer: NodeJS.Timeout | undefined

  constructor(listener: OpensslListener) {
    this.#listener = listener
    this.maxStreams = listener.limits.maxStreamsPerConnection
    this.#root = listener.openRoot()
    this.engine = new Engine(listener.driver, this.#root)
    this.#slot = this.#watchRoot()
  }

  get root(): ffi.Pointer {
    return this.#root
  }

  /** Its connections must be freed before. */
  free(): void {
    clearTimeout(this.#reopenTimer)
    this.engine.table.remove(this.#slot)
    this.engine.close()
    ffi.SSL_free(this.#root)
  }

  onEvents(events: number): void {
    if (events & ffi.pollEvent.IC) this.#accept()
    if (events & ffi.pollEvent.EL) this.#reopen()
  }

  established(connection: OpensslConnection): void {
    callOut(() => this.#listener.onConnection(connection))
  }

  /** Nobody has heard of it. Refused certificates and scanners are everyday; the peer is told by TLS. */
  handshakeFailed(): void {}

  freed(connection: OpensslConnection): void {
    this.#listener.freed(connection)
  }

  #watchRoot(): number {
    return this.engine.table.add(this.#root, ffi.pollEvent.IC | ffi.pollEvent.EL, this)
  }

  #accept(): void {
    // Asks first: SSL_accept_connection ticks the whole engine when there is none.
    while (ffi.SSL_get_accept_connection_queue_len(this.#root) > 0) {
      const ssl = ffi.SSL_accept_connection(this.#root, ffi.SSL_ACCEPT_CONNECTION_NO_BLOCK)
      if (ssl === 0) break
      this.#listener.accepted(this, ssl)
    }
  }

  /**
   * OpenSSL gives up a port for good when sending fails otherwise than by a full buffer, were it for one peer (the network goes
   * down, a firewall forbids): every connection of it has ended, and no new one would come. So a new port takes the socket.
   */
  #reopen(): void {
    this.#accept()
    this.engine.table.remove(this.#slot)
    this.#reopenTimer = setTimeout(() => {
      const former = this.#root
      try {
        this.#root = this.#listener.openRoot()
      } catch {
        // Out of memory or file descriptors: the next attempt may have them.
        this.#reopen()
        return
      }
      this.#slot = this.#watchRoot()
      this.engine.replaceRoot(this.#root)
      ffi.SSL_free(former)
    }, REOPEN_MS)
  }
}

/**
 * OpenSSL's callbacks into JavaScript, registered once for all listeners; the callback argument tells which one is meant.
 * They run within calls of OpenSSL and never throw.
 */
class Registry {
  readonly #listeners = new Map<number, OpensslListener>()
  #lastId = 0

  readonly alpnSelect = ffi.registerAlpnSelect((_ssl, out, outLength, list, length, id) => {
    const chosen = this.#listeners.get(id)?.selectAlpn(ffi.bytesAt(list, length))
    if (chosen === undefined) return ffi.SSL_TLSEXT_ERR_ALERT_FATAL
    // OpenSSL wants a pointer that lives on: into the client's own list.
    ffi.storePointer(out, list + chosen.offset)
    ffi.storeByte(outLength, chosen.length)
    return ffi.SSL_TLSEXT_ERR_OK
  })

  /** Never refuses: OpenSSL 3.5 then uses what it has just freed. The ClientHello is the place for that. */
  readonly newPending = ffi.registerNewPending((_ctx, ssl, id) => {
    this.#listeners.get(id)?.begin(ssl)
    return 1
  })

  readonly clientHello = ffi.registerClientHello((ssl, alert, id) => {
    if (this.#listeners.get(id)?.admit(ssl) === true) return ffi.SSL_CLIENT_HELLO_SUCCESS
    ffi.storeInt(alert, ffi.SSL_AD_INTERNAL_ERROR)
    return ffi.SSL_CLIENT_HELLO_ERROR
  })

  add(listener: OpensslListener): number {
    this.#listeners.set(++this.#lastId, listener)
    return this.#lastId
  }

  remove(id: number): void {
    this.#listeners.delete(id)
  }
}

const registry = new Registry()

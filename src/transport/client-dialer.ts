/**
 * The one connection that all subscriptions of a client share: dialled when the first one needs it,
 * dialled anew when one needs it after it was lost. Never twice at once.
 */
import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import { BeyondError } from '../errors.ts'
import { loadCredentials, parseAddress, type ConnectOptions } from './client-options.ts'
import { ALPN } from './frame.ts'
import type { CloseInfo, Quic, QuicAddress, QuicConnection } from './quic.ts'

const IDLE_TIMEOUT_MS = 30_000
/** A handshake takes a few round trips; what takes longer is not there. */
const DIAL_TIMEOUT_MS = 5_000

export class ClientDialer {
  readonly #options: ConnectOptions
  readonly #address: QuicAddress
  readonly #closing = new AbortController()
  #connection: QuicConnection | undefined
  #dialling: Promise<QuicConnection> | undefined
  #lastClose: CloseInfo | undefined

  constructor(options: ConnectOptions) {
    this.#options = options
    this.#address = parseAddress(options.server)
  }

  get server(): string {
    return this.#options.server
  }

  /** A live connection. Rejects with what `dial` rejects with, or with the signal's reason. */
  async acquire(signal: AbortSignal): Promise<QuicConnection> {
    if (this.#connection) return this.#connection
    this.#dialling ??= this.#dial().finally(() => (this.#dialling = undefined))
    const { promise: aborted, reject } = Promise.withResolvers<never>()
    const onAbort = () => reject(signal.reason)
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
    try {
      return await Promise.race([this.#dialling, aborted])
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  /** Why the last connection ended, as an error. */
  lossError(): BeyondError {
    const { server } = this.#options
    const close = this.#lastClose
    if (!close) return new BeyondError('UNREACHABLE', `The connection to ${server} was lost.`)
    const reason = close.reason === '' ? '' : `: ${close.reason}`
    return new BeyondError('UNREACHABLE', `The connection to ${server} was ${close.remote ? 'closed by the service' : 'lost'}${reason}.`, {
      facts: { code: close.code },
    })
  }

  /** The connection does not answer any more: the next `acquire` makes another one. */
  abandon(connection: QuicConnection): void {
    if (this.#connection !== connection) return
    this.#connection = undefined
    connection.close(0n, 'no answer')
  }

  close(): void {
    this.#closing.abort(new BeyondError('UNREACHABLE', 'The client was closed.'))
    this.#connection?.close(0n)
    this.#connection = undefined
  }

  async #dial(): Promise<QuicConnection> {
    const quic = this.#options.quic ?? (await ownQuic())
    const credentials = await loadCredentials(this.#options.tls)
    const serverName = this.#options.serverName ?? this.#address.host
    let failure: unknown
    for (const host of await addresses(this.#address.host)) {
      const timeout = AbortSignal.timeout(DIAL_TIMEOUT_MS)
      try {
        const connection = await quic.dial({
          address: { host, port: this.#address.port },
          serverName,
          alpn: ALPN,
          credentials,
          idleTimeoutMs: this.#options.idleTimeoutMs ?? IDLE_TIMEOUT_MS,
          signal: AbortSignal.any([this.#closing.signal, timeout]),
        })
        return this.#adopt(connection)
      } catch (error) {
        failure = timeout.aborted ? this.#unreachable(error) : error
        if (this.#closing.signal.aborted || !(failure instanceof BeyondError && failure.code === 'UNREACHABLE')) throw failure
      }
    }
    throw failure
  }

  #adopt(connection: QuicConnection): QuicConnection {
    connection.onClosed = (info) => {
      this.#lastClose = info
      if (this.#connection === connection) this.#connection = undefined
    }
    // A server opens no streams in this protocol.
    connection.onStream = (stream) => stream.reset(0n)
    if (this.#closing.signal.aborted) {
      connection.close(0n)
      throw this.#closing.signal.reason
    }
    this.#lastClose = undefined
    return (this.#connection = connection)
  }

  #unreachable(cause: unknown): BeyondError {
    return new BeyondError('UNREACHABLE', `Nothing answers at ${this.#options.server}.`, { cause })
  }
}

/** IPv4 first: a service on a loopback address mostly listens there alone. */
async function addresses(host: string): Promise<readonly string[]> {
  if (isIP(host) !== 0) return [host]
  try {
    const found = await lookup(host, { all: true, order: 'ipv4first' })
    return found.map(({ address }) => address)
  } catch (error) {
    throw new BeyondError('UNREACHABLE', `The name ${host} can't be resolved.`, { cause: error, facts: { host } })
  }
}

/** Loaded when it is needed: who brings a QUIC of their own needs no FFI. */
async function ownQuic(): Promise<Quic> {
  const { quic } = await import('./openssl-quic.ts')
  return quic
}

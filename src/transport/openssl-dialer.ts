/** Dials a QUIC server. Each connection has its own socket and engine, which end with it. */
import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import { BeyondError } from '../errors.ts'
import { OpensslConnection, type ConnectionOwner } from './openssl-connection.ts'
import { createContext, takeError } from './openssl-credentials.ts'
import { Driver, Engine } from './openssl-engine.ts'
import * as ffi from './openssl-ffi.ts'
import { connectUdp, type UdpSocket } from './openssl-socket.ts'
import type { CloseInfo, DialOptions, QuicAddress, QuicConnection } from './quic.ts'

/** A server that does not answer, or does not finish the handshake, within it counts as unreachable. */
const HANDSHAKE_TIMEOUT_MS = 10_000
/** Streams that the server may have open to us at once. */
const MAX_SERVER_STREAMS = 100

/** Tries the addresses of a name one after the other; all share one deadline. Abortion rejects with the signal's reason. */
export async function dialServer(options: DialOptions): Promise<QuicConnection> {
  options.signal.throwIfAborted()
  const ctx = createContext('client', options.credentials)
  try {
    const deadline = performance.now() + HANDSHAKE_TIMEOUT_MS
    const hosts = await abortable(resolve(options.address), options.signal)
    let failure: unknown
    for (const host of hosts) {
      options.signal.throwIfAborted()
      try {
        return await dialAddress(ctx, options, { host, port: options.address.port }, deadline)
      } catch (error) {
        failure = error
        if (!(error instanceof BeyondError && error.code === 'UNREACHABLE') || performance.now() >= deadline) break
      }
    }
    throw failure
  } finally {
    ffi.SSL_CTX_free(ctx)
  }
}

async function resolve({ host }: QuicAddress): Promise<string[]> {
  if (isIP(host) !== 0) return [host]
  try {
    return (await lookup(host, { all: true })).map(({ address }) => address)
  } catch (error) {
    throw new BeyondError('UNREACHABLE', `The name ${host} can't be resolved.`, { cause: error, facts: { host } })
  }
}

function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: result, resolve: succeed, reject } = Promise.withResolvers<T>()
  const onAbort = (): void => reject(signal.reason)
  signal.addEventListener('abort', onAbort, { once: true })
  promise.then(succeed, reject).finally(() => signal.removeEventListener('abort', onAbort))
  return result
}

async function dialAddress(ctx: ffi.Pointer, options: DialOptions, address: QuicAddress, deadline: number): Promise<QuicConnection> {
  const socket = connectUdp(address)
  let ssl: ffi.Pointer
  try {
    ssl = startHandshake(ctx, options, socket)
  } catch (error) {
    socket.close()
    throw error
  }
  const dial = new Dial(options, address, socket, ssl, deadline)
  return abortable(dial.result.promise, options.signal).catch((error: unknown) => {
    dial.connection.close()
    throw error
  })
}

function startHandshake(ctx: ffi.Pointer, { alpn, serverName, address, idleTimeoutMs }: DialOptions, socket: UdpSocket): ffi.Pointer {
  const name = serverName ?? address.host
  const protocols = Buffer.from(`${String.fromCharCode(alpn.length)}${alpn}`, 'latin1')
  ffi.ERR_clear_error()
  const ssl = ffi.SSL_new(ctx)
  const isSet =
    ssl !== 0 &&
    ffi.SSL_set_fd(ssl, socket.fd) === 1 &&
    ffi.SSL_set_blocking_mode(ssl, 0) === 1 &&
    // Checks subject alternative names: DNS names for a name, IP addresses for an address.
    ffi.SSL_set1_host(ssl, name) === 1 &&
    // SNI is for names only (RFC 6066, 3).
    (isIP(name) !== 0 || ffi.SSL_ctrl(ssl, ffi.SSL_CTRL_SET_TLSEXT_HOSTNAME, 0, Buffer.from(`${name}\0`)) === 1) &&
    ffi.SSL_set_alpn_protos(ssl, protocols, protocols.length) === 0 &&
    ffi.SSL_set_value_uint(ssl, ffi.SSL_VALUE_CLASS_FEATURE_REQUEST, ffi.SSL_VALUE_QUIC_IDLE_TIMEOUT, idleTimeoutMs) === 1
  if (isSet) return ssl
  const reason = takeError()
  if (ssl !== 0) ffi.SSL_free(ssl)
  throw new BeyondError('INTERNAL', `OpenSSL does not dial: ${reason}.`)
}

class Dial implements ConnectionOwner {
  readonly engine: Engine
  readonly maxStreams = MAX_SERVER_STREAMS
  readonly connection: OpensslConnection
  readonly result = Promise.withResolvers<QuicConnection>()
  readonly #driver: Driver
  readonly #options: DialOptions
  readonly #address: QuicAddress

  constructor(options: DialOptions, address: QuicAddress, socket: UdpSocket, ssl: ffi.Pointer, deadline: number) {
    this.#options = options
    this.#address = address
    this.#driver = new Driver(socket, () => this.#driver.wake(this.engine))
    this.engine = new Engine(this.#driver, ssl)
    this.connection = new OpensslConnection(this, ssl, address, false, options.alpn, deadline)
    // -1, "want read": it goes on in the engine's turns.
    ffi.SSL_connect(ssl)
    ffi.ERR_clear_error()
    this.engine.touch()
  }

  established(connection: OpensslConnection): void {
    this.result.resolve(connection)
  }

  handshakeFailed(_connection: OpensslConnection, info: CloseInfo, verifyResult: number): void {
    this.result.reject(dialError(this.#options, this.#address, info, verifyResult))
  }

  freed(): void {
    this.engine.close()
    this.#driver.close()
    // Nothing if it is settled already.
    const info = { code: 0n, reason: 'closed', remote: false, application: false }
    this.result.reject(dialError(this.#options, this.#address, info, ffi.X509_V_OK))
  }
}

/** RFC 9000, 20.1: TLS alerts are transport errors from 0x100 on. */
const CRYPTO_ERROR = 0x100n
const alert = { internalError: 80n, noApplicationProtocol: 120n } as const
/** RFC 9000, 20.1: CONNECTION_REFUSED, and APPLICATION_ERROR for an application's close during the handshake. */
const refusals: ReadonlySet<bigint> = new Set([0x2n, 0xcn])
/** RFC 8446, 6.2. */
const alertNames: Readonly<Record<string, string>> = {
  40: 'handshake failure', 42: 'bad certificate', 43: 'unsupported certificate', 44: 'certificate revoked', 45: 'certificate expired',
  46: 'certificate unknown', 48: 'unknown certificate authority', 49: 'access denied', 51: 'bad signature', 70: 'protocol version',
  109: 'missing extension', 112: 'unrecognized name', 116: 'certificate required',
}

function dialError(options: DialOptions, { host, port }: QuicAddress, info: CloseInfo, verifyResult: number): BeyondError {
  const where = `${options.address.host} port ${port} (UDP)`
  const facts = { host, port }
  if (verifyResult !== ffi.X509_V_OK) {
    const why = ffi.X509_verify_cert_error_string(verifyResult)
    const name = options.serverName ?? options.address.host
    return new BeyondError('UNAUTHENTICATED', `The certificate of the server at ${where} is not accepted for ${name}: ${why}.`, { facts })
  }
  const number = info.code - CRYPTO_ERROR
  const isAlert = !info.application && number >= 0n && number < 256n
  if (isAlert && number === alert.noApplicationProtocol) {
    return new BeyondError('UNAUTHENTICATED', `The server at ${where} does not speak ${options.alpn}.`, { facts })
  }
  // How a listener of ours refuses: before it has read the whole ClientHello, or after.
  const isRefused = (isAlert && number === alert.internalError) || (!info.application && refusals.has(info.code))
  if (isRefused && info.remote) {
    return new BeyondError('UNREACHABLE', `The server at ${where} takes no more connections from here now.`, { facts })
  }
  if (isAlert) {
    const what = alertNames[number.toString()] ?? `alert ${number}`
    const who = `The server at ${where}${info.remote ? ' refused our certificate or handshake' : ' made a handshake that failed'}`
    return new BeyondError('UNAUTHENTICATED', `${who}: ${what}${info.reason === '' ? '' : ` (${info.reason})`}.`, { facts })
  }
  return new BeyondError('UNREACHABLE', `No QUIC server answers at ${where}${info.reason === '' ? '' : `: ${info.reason}`}.`, { facts })
}

/**
 * OpenSSL 3.5's QUIC and a few socket calls of the C library, as the `node` executable and its process export them.
 * The one file with foreign function declarations; it declares and decides nothing. Import it lazily: it loads native code.
 *
 * Handles (SSL *, SSL_CTX *, …) are plain numbers here, 0 for NULL: user space addresses fit in 47 bits, and a number
 * costs a third of what koffi takes for a BigInt or an external. Memory of ours is passed as a typed array; callers keep it alive.
 *
 * Functions named ossl_*, and BIO_ADDR_sockaddr_noconst, are not in the public headers of 3.5. Every official build of Node exports
 * them, and they do what can't be had otherwise: tell whether a client's handshake is confirmed, that is, whether the
 * server has accepted the client's certificate; set a listener's idle timeout; receive addresses in place.
 */
import koffi from 'koffi'

export type Pointer = number
type Memory = Uint8Array | Uint32Array | BigUint64Array | Pointer

const lib = koffi.load(null)
const handle = 'intptr_t'
const memory = 'void *'

function bind<F>(name: string, returns: string, parameters: string[]): F {
  return lib.func(name, returns, parameters) as unknown as F
}

// ── contexts ────────────────────────────────────────────────────────────────────────────────────────────────────────
export const OSSL_QUIC_server_method = bind<() => Pointer>('OSSL_QUIC_server_method', handle, [])
export const OSSL_QUIC_client_method = bind<() => Pointer>('OSSL_QUIC_client_method', handle, [])
export const SSL_CTX_new = bind<(method: Pointer) => Pointer>('SSL_CTX_new', handle, [handle])
export const SSL_CTX_free = bind<(ctx: Pointer) => void>('SSL_CTX_free', 'void', [handle])
export const SSL_CTX_ctrl = bind<(ctx: Pointer, command: number, number: number, argument: Pointer) => number>(
  'SSL_CTX_ctrl', 'long', [handle, 'int', 'long', handle])
export const SSL_CTX_set_options = bind<(ctx: Pointer, options: number) => number>('SSL_CTX_set_options', 'uint64', [handle, 'uint64'])
export const SSL_CTX_set_num_tickets = bind<(ctx: Pointer, count: number) => number>('SSL_CTX_set_num_tickets', 'int', [handle, 'size_t'])
export const SSL_CTX_set_verify = bind<(ctx: Pointer, mode: number, callback: Pointer) => void>(
  'SSL_CTX_set_verify', 'void', [handle, 'int', handle])
export const SSL_CTX_use_certificate = bind<(ctx: Pointer, x509: Pointer) => number>('SSL_CTX_use_certificate', 'int', [handle, handle])
export const SSL_CTX_use_PrivateKey = bind<(ctx: Pointer, key: Pointer) => number>('SSL_CTX_use_PrivateKey', 'int', [handle, handle])
export const SSL_CTX_check_private_key = bind<(ctx: Pointer) => number>('SSL_CTX_check_private_key', 'int', [handle])
export const SSL_CTX_get_cert_store = bind<(ctx: Pointer) => Pointer>('SSL_CTX_get_cert_store', handle, [handle])

const alpnPrototype = koffi.proto('beyond_alpn_select', 'int', [handle, handle, handle, handle, 'uint', handle])
const helloPrototype = koffi.proto('beyond_client_hello', 'int', [handle, handle, handle])
const pendingPrototype = koffi.proto('beyond_new_pending', 'int', [handle, handle, handle])
export type NewPending = (ctx: Pointer, ssl: Pointer, argument: Pointer) => number
export const registerNewPending = (callback: NewPending): Callback => koffi.register(callback, koffi.pointer(pendingPrototype))
export const SSL_CTX_set_new_pending_conn_cb = lib.func('SSL_CTX_set_new_pending_conn_cb', 'void', [
  handle, koffi.pointer(pendingPrototype), handle]) as unknown as (ctx: Pointer, callback: Callback, argument: Pointer) => void
export type AlpnSelect = (ssl: Pointer, out: Pointer, outLength: Pointer, list: Pointer, length: number, argument: Pointer) => number
export type ClientHello = (ssl: Pointer, alert: Pointer, argument: Pointer) => number
type Callback = unknown
export const registerAlpnSelect = (callback: AlpnSelect): Callback => koffi.register(callback, koffi.pointer(alpnPrototype))
export const registerClientHello = (callback: ClientHello): Callback => koffi.register(callback, koffi.pointer(helloPrototype))
export const SSL_CTX_set_alpn_select_cb = lib.func('SSL_CTX_set_alpn_select_cb', 'void', [
  handle, koffi.pointer(alpnPrototype), handle]) as unknown as (ctx: Pointer, callback: Callback, argument: Pointer) => void
export const SSL_CTX_set_client_hello_cb = lib.func('SSL_CTX_set_client_hello_cb', 'void', [
  handle, koffi.pointer(helloPrototype), handle]) as unknown as (ctx: Pointer, callback: Callback, argument: Pointer) => void

// ── certificates ────────────────────────────────────────────────────────────────────────────────────────────────────
export const BIO_new_mem_buf = bind<(bytes: Memory, length: number) => Pointer>('BIO_new_mem_buf', handle, [memory, 'int'])
export const BIO_new_dgram = bind<(fd: number, close: number) => Pointer>('BIO_new_dgram', handle, ['int', 'int'])
export const BIO_free = bind<(bio: Pointer) => number>('BIO_free', 'int', [handle])
export const PEM_read_bio_X509 = bind<(bio: Pointer, x: Pointer, callback: Pointer, password: Memory) => Pointer>(
  'PEM_read_bio_X509', handle, [handle, handle, handle, memory])
export const PEM_read_bio_PrivateKey = bind<(bio: Pointer, x: Pointer, callback: Pointer, password: Memory) => Pointer>(
  'PEM_read_bio_PrivateKey', handle, [handle, handle, handle, memory])
export const X509_free = bind<(x509: Pointer) => void>('X509_free', 'void', [handle])
export const EVP_PKEY_free = bind<(key: Pointer) => void>('EVP_PKEY_free', 'void', [handle])
export const X509_STORE_add_cert = bind<(store: Pointer, x509: Pointer) => number>('X509_STORE_add_cert', 'int', [handle, handle])
export const i2d_X509 = bind<(x509: Pointer, out: Memory) => number>('i2d_X509', 'int', [handle, memory])
export const X509_verify_cert_error_string = bind<(code: number) => string>('X509_verify_cert_error_string', 'str', ['long'])

// ── connections ─────────────────────────────────────────────────────────────────────────────────────────────────────
export const SSL_new = bind<(ctx: Pointer) => Pointer>('SSL_new', handle, [handle])
export const SSL_free = bind<(ssl: Pointer) => void>('SSL_free', 'void', [handle])
export const SSL_set_fd = bind<(ssl: Pointer, fd: number) => number>('SSL_set_fd', 'int', [handle, 'int'])
export const SSL_set_blocking_mode = bind<(ssl: Pointer, blocking: number) => number>('SSL_set_blocking_mode', 'int', [handle, 'int'])
export const SSL_ctrl = bind<(ssl: Pointer, command: number, number: number, argument: Memory) => number>(
  'SSL_ctrl', 'long', [handle, 'int', 'long', memory])
export const SSL_set1_host = bind<(ssl: Pointer, name: string) => number>('SSL_set1_host', 'int', [handle, 'str'])
export const SSL_set_alpn_protos = bind<(ssl: Pointer, list: Memory, length: number) => number>(
  'SSL_set_alpn_protos', 'int', [handle, memory, 'uint'])
export const SSL_get0_alpn_selected = bind<(ssl: Pointer, data: Memory, length: Memory) => void>(
  'SSL_get0_alpn_selected', 'void', [handle, memory, memory])
export const SSL_connect = bind<(ssl: Pointer) => number>('SSL_connect', 'int', [handle])
export const SSL_do_handshake = bind<(ssl: Pointer) => number>('SSL_do_handshake', 'int', [handle])
export const SSL_get_verify_result = bind<(ssl: Pointer) => number>('SSL_get_verify_result', 'long', [handle])
export const SSL_get0_peer_certificate = bind<(ssl: Pointer) => Pointer>('SSL_get0_peer_certificate', handle, [handle])
export const SSL_shutdown_ex = bind<(ssl: Pointer, flags: number, args: Memory, length: number) => number>(
  'SSL_shutdown_ex', 'int', [handle, 'uint64', memory, 'size_t'])
export const SSL_get_conn_close_info = bind<(ssl: Pointer, info: Memory, length: number) => number>(
  'SSL_get_conn_close_info', 'int', [handle, memory, 'size_t'])
export const SSL_set_value_uint = bind<(ssl: Pointer, kind: number, id: number, value: number) => number>(
  'SSL_set_value_uint', 'int', [handle, 'uint32', 'uint32', 'uint64'])
export const SSL_get_value_uint = bind<(ssl: Pointer, kind: number, id: number, value: Memory) => number>(
  'SSL_get_value_uint', 'int', [handle, 'uint32', 'uint32', memory])
export const ossl_quic_conn_get_channel = bind<(ssl: Pointer) => Pointer>('ossl_quic_conn_get_channel', handle, [handle])
export const ossl_quic_channel_is_handshake_confirmed = bind<(channel: Pointer) => number>(
  'ossl_quic_channel_is_handshake_confirmed', 'int', [handle])
export const ossl_quic_channel_set_max_idle_timeout_request = bind<(channel: Pointer, ms: number) => void>(
  'ossl_quic_channel_set_max_idle_timeout_request', 'void', [handle, 'uint64'])

// ── listeners, events ───────────────────────────────────────────────────────────────────────────────────────────────
export const SSL_new_listener = bind<(ctx: Pointer, flags: number) => Pointer>('SSL_new_listener', handle, [handle, 'uint64'])
export const SSL_set0_wbio = bind<(ssl: Pointer, bio: Pointer) => void>('SSL_set0_wbio', 'void', [handle, handle])
export const SSL_listen = bind<(listener: Pointer) => number>('SSL_listen', 'int', [handle])
export const SSL_accept_connection = bind<(listener: Pointer, flags: number) => Pointer>(
  'SSL_accept_connection', handle, [handle, 'uint64'])
export const SSL_get_accept_connection_queue_len = bind<(listener: Pointer) => number>(
  'SSL_get_accept_connection_queue_len', 'size_t', [handle])
export const SSL_handle_events = bind<(ssl: Pointer) => number>('SSL_handle_events', 'int', [handle])
export const SSL_inject_net_dgram = bind<(ssl: Pointer, bytes: Pointer, length: number, peer: Pointer, local: Pointer) => number>(
  'SSL_inject_net_dgram', 'int', [handle, handle, 'size_t', handle, handle])
export const SSL_get_event_timeout = bind<(ssl: Pointer, timeval: Memory, infinite: Memory) => number>(
  'SSL_get_event_timeout', 'int', [handle, memory, memory])
export const SSL_net_write_desired = bind<(ssl: Pointer) => number>('SSL_net_write_desired', 'int', [handle])
export const SSL_poll = bind<(items: Memory, count: number, stride: number, timeout: Memory, flags: number, ready: Memory) => number>(
  'SSL_poll', 'int', [memory, 'size_t', 'size_t', memory, 'uint64', memory])

// ── streams ─────────────────────────────────────────────────────────────────────────────────────────────────────────
export const SSL_set_default_stream_mode = bind<(ssl: Pointer, mode: number) => number>(
  'SSL_set_default_stream_mode', 'int', [handle, 'uint32'])
export const SSL_set_incoming_stream_policy = bind<(ssl: Pointer, policy: number, code: number) => number>(
  'SSL_set_incoming_stream_policy', 'int', [handle, 'int', 'uint64'])
export const SSL_new_stream = bind<(ssl: Pointer, flags: number) => Pointer>('SSL_new_stream', handle, [handle, 'uint64'])
export const SSL_accept_stream = bind<(ssl: Pointer, flags: number) => Pointer>('SSL_accept_stream', handle, [handle, 'uint64'])
export const SSL_get_stream_id = bind<(stream: Pointer) => number | bigint>('SSL_get_stream_id', 'uint64', [handle])
export const SSL_get_stream_type = bind<(stream: Pointer) => number>('SSL_get_stream_type', 'int', [handle])
export const SSL_read_ex = bind<(stream: Pointer, into: Memory, length: number, count: Memory) => number>(
  'SSL_read_ex', 'int', [handle, memory, 'size_t', memory])
export const SSL_write_ex = bind<(stream: Pointer, bytes: Memory, length: number, count: Memory) => number>(
  'SSL_write_ex', 'int', [handle, memory, 'size_t', memory])
export const SSL_get_error = bind<(ssl: Pointer, result: number) => number>('SSL_get_error', 'int', [handle, 'int'])
export const SSL_stream_conclude = bind<(stream: Pointer, flags: number) => number>('SSL_stream_conclude', 'int', [handle, 'uint64'])
export const SSL_stream_reset = bind<(stream: Pointer, args: Memory, length: number) => number>(
  'SSL_stream_reset', 'int', [handle, memory, 'size_t'])

// ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────────────
export const ERR_clear_error = bind<() => void>('ERR_clear_error', 'void', [])
export const ERR_get_error = bind<() => number>('ERR_get_error', 'ulong', [])
export const ERR_reason_error_string = bind<(code: number) => string | null>('ERR_reason_error_string', 'str', ['ulong'])

// ── addresses ───────────────────────────────────────────────────────────────────────────────────────────────────────
export const BIO_ADDR_new = bind<() => Pointer>('BIO_ADDR_new', handle, [])
export const BIO_ADDR_free = bind<(address: Pointer) => void>('BIO_ADDR_free', 'void', [handle])
export const BIO_ADDR_sockaddr_noconst = bind<(address: Pointer) => Pointer>('BIO_ADDR_sockaddr_noconst', handle, [handle])

// ── the C library ───────────────────────────────────────────────────────────────────────────────────────────────────
export const c = {
  socket: bind<(family: number, type: number, protocol: number) => number>('socket', 'int', ['int', 'int', 'int']),
  bind: bind<(fd: number, address: Memory, length: number) => number>('bind', 'int', ['int', memory, 'uint']),
  connect: bind<(fd: number, address: Memory, length: number) => number>('connect', 'int', ['int', memory, 'uint']),
  getsockname: bind<(fd: number, address: Memory, length: Memory) => number>('getsockname', 'int', ['int', memory, memory]),
  setsockopt: bind<(fd: number, level: number, name: number, value: Memory, length: number) => number>(
    'setsockopt', 'int', ['int', 'int', 'int', memory, 'uint']),
  recvmmsg: bind<(fd: number, headers: Memory, count: number, flags: number, timeout: Pointer) => number>(
    'recvmmsg', 'int', ['int', memory, 'uint', 'int', handle]),
  close: bind<(fd: number) => number>('close', 'int', ['int']),
}
/** errno of the last call above. Read it at once. */
export const errno = (): number => koffi.errno()

/** Copies bytes out of foreign memory. */
export function bytesAt(pointer: Pointer, length: number): Buffer {
  return length === 0 || pointer === 0 ? Buffer.alloc(0) : Buffer.from(koffi.decode(BigInt(pointer), 'uint8', length) as Uint8Array)
}
/** Foreign memory itself; not to be used once it is freed. */
export function viewOf(pointer: Pointer, length: number): Buffer {
  return Buffer.from(koffi.view(BigInt(pointer), length))
}
export function storePointer(at: Pointer, value: Pointer): void {
  koffi.encode(BigInt(at), 'intptr_t', value)
}
export function storeByte(at: Pointer, value: number): void {
  koffi.encode(BigInt(at), 'uint8', value)
}
export function storeInt(at: Pointer, value: number): void {
  koffi.encode(BigInt(at), 'int', value)
}
export function addressOf(bytes: Uint8Array): bigint {
  return BigInt(koffi.address(bytes))
}

export type FdEvents = { readonly readable: boolean; readonly writable: boolean }
/** A file descriptor in Node's own event loop (libuv's uv_poll): no thread waits. Level-triggered. */
export type FdWatch = {
  start(events: FdEvents, callback: (status: number) => void): void
  close(): void
}
/**
 * `callback` gets 0 or a negative status; after a negative one the watch has stopped and must be started again.
 * It runs outside of Node's callback scope: no promise job runs after it, so do no more in it than setImmediate.
 */
export function watch(fd: number, events: FdEvents, callback: (status: number) => void): FdWatch {
  return koffi.node.poll(fd, events, callback as never) as unknown as FdWatch
}

// ── constants (openssl/ssl.h, openssl/x509_vfy.h, openssl/tls1.h, <sys/socket.h> of Linux) ──────────────────────────
export const SSL_VERIFY_PEER = 1
export const SSL_VERIFY_FAIL_IF_NO_PEER_CERT = 2
export const SSL_OP_NO_TICKET = 2 ** 14
export const SSL_CTRL_MODE = 33
export const SSL_CTRL_SET_SESS_CACHE_MODE = 44
export const SSL_CTRL_SET_TLSEXT_HOSTNAME = 55
export const SSL_CTRL_CHAIN_CERT = 89
export const SSL_CTRL_SET_MIN_PROTO_VERSION = 123
export const TLS1_3_VERSION = 0x0304
export const SSL_MODE_ENABLE_PARTIAL_WRITE = 1
export const SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER = 2
export const SSL_TLSEXT_ERR_OK = 0
export const SSL_TLSEXT_ERR_ALERT_FATAL = 2
export const SSL_CLIENT_HELLO_SUCCESS = 1
export const SSL_CLIENT_HELLO_ERROR = 0
export const SSL_AD_INTERNAL_ERROR = 80
export const SSL_ERROR_WANT_READ = 2
export const SSL_ERROR_ZERO_RETURN = 6
export const SSL_ACCEPT_CONNECTION_NO_BLOCK = 1
export const SSL_ACCEPT_STREAM_NO_BLOCK = 1
export const SSL_STREAM_FLAG_NO_BLOCK = 2
export const SSL_STREAM_TYPE_BIDI = 3
export const SSL_DEFAULT_STREAM_MODE_NONE = 0
export const SSL_INCOMING_STREAM_POLICY_ACCEPT = 1
export const SSL_SHUTDOWN_FLAG_NO_STREAM_FLUSH = 2
export const SSL_SHUTDOWN_FLAG_NO_BLOCK = 4
export const SSL_CONN_CLOSE_FLAG_LOCAL = 1
export const SSL_CONN_CLOSE_FLAG_TRANSPORT = 2
export const SSL_VALUE_CLASS_GENERIC = 0
export const SSL_VALUE_CLASS_FEATURE_REQUEST = 1
export const SSL_VALUE_QUIC_IDLE_TIMEOUT = 5
export const SSL_VALUE_EVENT_HANDLING_MODE = 6
export const SSL_VALUE_EVENT_HANDLING_MODE_EXPLICIT = 2
export const SSL_VALUE_STREAM_WRITE_BUF_USED = 8
export const SSL_POLL_FLAG_NO_HANDLE_EVENTS = 1
export const BIO_POLL_DESCRIPTOR_TYPE_SSL = 2
export const pollEvent = {
  /** Exception on listener: its socket has failed. */
  EL: 1 << 1,
  /** Exception on connection: it is closing or closed. */
  EC: 1 << 2,
  /** The connection has passed its closing or draining time. */
  ECD: 1 << 3,
  /** The peer has reset the stream. */
  ER: 1 << 4,
  /** The peer wants no more of the stream (STOP_SENDING). */
  EW: 1 << 5,
  R: 1 << 6,
  W: 1 << 7,
  /** Incoming connection; incoming bidirectional and unidirectional stream. */
  IC: 1 << 8,
  ISB: 1 << 9,
  ISU: 1 << 10,
} as const
export const X509_V_OK = 0

export const AF_INET = 2
export const AF_INET6 = 10
export const SOCK_DGRAM = 2
export const SOCK_NONBLOCK = 0o4000
export const SOCK_CLOEXEC = 0o2000000
export const MSG_DONTWAIT = 0x40
export const SOL_SOCKET = 1
export const SO_SNDBUF = 7
export const SO_RCVBUF = 8
export const SO_SNDBUFFORCE = 32
export const SO_RCVBUFFORCE = 33

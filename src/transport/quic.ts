/**
 * The narrow face of QUIC that the rest of the tree sees. `openssl-quic.ts` implements it over the OpenSSL that Node
 * links; `node:quic` could stand behind it where a build has it.
 *
 * Reads and writes never block and never queue in JavaScript: QUIC's own flow control is the backpressure.
 * Callbacks are called from the event loop, never from within the call that caused them.
 */

export type Credentials = {
  /** PEM text: own certificate followed by its intermediates. */
  readonly cert: string
  readonly key: string
  /** PEM text: the authorities whose peers are accepted. */
  readonly ca: string
}

export type QuicAddress = { readonly host: string; readonly port: number }

/** Error codes on the wire are application error codes of QUIC (RFC 9000, 20.2), listed in docs/protocol.md. */
export type CloseInfo = {
  /** 0 is an orderly end. */
  readonly code: bigint
  readonly reason: string
  readonly remote: boolean
  /** false: a transport error, such as an idle timeout or a refused handshake. */
  readonly application: boolean
}

export interface QuicStream {
  readonly id: bigint
  /**
   * Copies as many bytes as flow control and the send buffer take now and answers how many, 0 included.
   * After a short count `onWritable` is called once, when there is room again.
   */
  write(bytes: Uint8Array): number
  /** Fills `into` with what has arrived: the count, 0 for nothing now, -1 for the end of the stream. `onReadable` tells when to ask again. */
  read(into: Uint8Array): number
  /** No more bytes from this side; what was written is still delivered. */
  finish(): void
  /** Gives the stream up in both directions. */
  reset(code: bigint): void
  onReadable: () => void
  onWritable: () => void
  /** Called once, when the stream was reset by the peer or its connection has ended. */
  onClosed: () => void
}

export interface QuicConnection {
  readonly remote: QuicAddress
  /** Subject common name of the peer's verified certificate. */
  readonly peerName: string
  openStream(): QuicStream
  /** A stream that the peer has opened. */
  onStream: (stream: QuicStream) => void
  onClosed: (info: CloseInfo) => void
  /** Sends CONNECTION_CLOSE after what has been written, as far as the peer takes it within the drain time. */
  close(code?: bigint, reason?: string): void
}

export type QuicLimits = {
  /** Connections altogether, and from one address. More are refused. */
  readonly maxConnections: number
  readonly maxConnectionsPerAddress: number
  /** Streams that a peer may have open at once in one connection. */
  readonly maxStreamsPerConnection: number
  /** A handshake that takes longer is dropped. Milliseconds. */
  readonly handshakeTimeoutMs: number
  /** A connection on which nothing arrives for so long is dropped. Milliseconds. */
  readonly idleTimeoutMs: number
}

export interface QuicListener extends AsyncDisposable {
  readonly address: QuicAddress
  /** Called when the handshake is complete and the peer's certificate verified. */
  onConnection: (connection: QuicConnection) => void
  /** Closes every connection with the code and reason, then the socket. Twice is harmless. */
  close(code?: bigint, reason?: string): Promise<void>
}

export type ListenOptions = { readonly address: QuicAddress; readonly alpn: string; readonly credentials: Credentials; readonly limits: QuicLimits }
export type DialOptions = {
  readonly address: QuicAddress
  /** Name that the server's certificate must carry; the host by default. */
  readonly serverName?: string
  readonly alpn: string
  readonly credentials: Credentials
  readonly idleTimeoutMs: number
  readonly signal: AbortSignal
}

/** `listen` rejects with PORT_IN_USE, NO_PERMISSION or BAD_CERTIFICATE; `dial` with UNREACHABLE, UNAUTHENTICATED or BAD_CERTIFICATE. */
export interface Quic {
  listen(options: ListenOptions): Promise<QuicListener>
  dial(options: DialOptions): Promise<QuicConnection>
}

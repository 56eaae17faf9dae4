/**
 * Answers subscribers: takes connections and streams from a QUIC listener, reads the first frame of each stream and
 * gives it to a session. Owns the sessions and the bounds on them.
 */
import { BeyondError, codeOf } from '../errors.ts'
import type { Logger } from '../logger.ts'
import { envelopes, type Status, type SubscriberStatus } from './envelopes.ts'
import { encodeFrame, FrameReader, frameType, MAX_CLIENT_FRAME_BYTES, type Frame } from './frame.ts'
import type { QuicConnection, QuicListener, QuicStream } from './quic.ts'
import { StreamWriter } from './stream-writer.ts'
import { endFrame, SubscriptionSession, type SessionContext, type SessionPeer } from './subscription-session.ts'

export type ServerOptions = SessionContext & {
  readonly maxSubscriptions: number
  /** A stream whose first frame takes longer is dropped. Milliseconds. */
  readonly requestTimeoutMs: number
  /** Time for subscribers to take the last bytes when the server stops. Milliseconds. */
  readonly drainMs: number
  readonly status: () => Promise<Status>
}

/** A peer may send this much in one go; acknowledgements are small. */
const READ_BYTES = 16 * 1024

/** QUIC application error codes (docs/protocol.md). */
export const quicError = { none: 0n, protocolViolation: 1n, shutdown: 2n, internal: 3n } as const

export class SubscriptionServer implements AsyncDisposable {
  readonly #options: ServerOptions
  readonly #listener: QuicListener
  readonly #logger: Logger
  readonly #stopping = new AbortController()
  readonly #sessions = new Set<SubscriptionSession>()
  readonly #streams = new Set<Promise<void>>()
  #nextId = 1n

  constructor(listener: QuicListener, options: ServerOptions) {
    this.#options = options
    this.#listener = listener
    this.#logger = options.logger
    listener.onConnection = (connection) => this.#accept(connection)
  }

  subscribers(lag: (offset: number) => { readonly bytes: bigint; readonly ms: bigint }): SubscriberStatus[] {
    return [...this.#sessions].map((session) => session.status(lag))
  }

  /** Tells every subscriber, gives them the drain time, closes. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort(new BeyondError('SHUTDOWN', 'The service is stopping: connect again.'))
    const { promise: late, resolve } = Promise.withResolvers<void>()
    const timer = setTimeout(resolve, this.#options.drainMs)
    await Promise.race([Promise.allSettled(this.#streams), late])
    clearTimeout(timer)
    await this.#listener.close(quicError.shutdown, 'shutting down')
  }

  #accept(connection: QuicConnection): void {
    const gone = new AbortController()
    const { host, port } = connection.remote
    this.#logger.debug({ peer: connection.peerName, host, port }, 'connected')
    connection.onStream = (stream) => {
      const peer = { id: this.#nextId++, name: connection.peerName, address: `${host}:${port}` }
      const served = this.#serve(stream, peer, gone.signal).finally(() => this.#streams.delete(served))
      this.#streams.add(served)
    }
    connection.onClosed = (info) => {
      this.#logger.debug({ peer: connection.peerName, host, port, code: String(info.code), reason: info.reason }, 'disconnected')
      gone.abort(new BeyondError('UNREACHABLE', 'The connection has ended.'))
    }
  }

  /** One stream from its first frame to its last. Never rejects. */
  async #serve(stream: QuicStream, peer: SessionPeer, gone: AbortSignal): Promise<void> {
    const over = new AbortController()
    const signal = AbortSignal.any([over.signal, gone, this.#stopping.signal])
    const writer = new StreamWriter(stream)
    const first = Promise.withResolvers<Frame>()
    const timer = setTimeout(
      () => first.reject(new BeyondError('TIMEOUT', `No request within ${this.#options.requestTimeoutMs} ms.`)),
      this.#options.requestTimeoutMs,
    )
    signal.addEventListener('abort', () => first.reject(signal.reason), { once: true })
    let session: SubscriptionSession | undefined
    const frames = new FrameReader(MAX_CLIENT_FRAME_BYTES)
    const into = Buffer.allocUnsafe(READ_BYTES)
    let requested = false
    /** Who has but one question has nothing to say after it. */
    let question = false
    stream.onReadable = () => {
      try {
        let count: number
        while (!over.signal.aborted && (count = stream.read(into)) !== 0) {
          if (count === -1 && question) return
          // The client is through with this subscription.
          if (count === -1) return over.abort(new BeyondError('UNREACHABLE', 'The client has ended the stream.'))
          frames.push(into.subarray(0, count), (frame) => {
            if (!requested) {
              requested = true
              question = frame.type === frameType.statusRequest
              first.resolve({ type: frame.type, body: Buffer.from(frame.body) })
            } else if (frame.type === frameType.ack && session) session.acknowledge(frame)
            else throw new BeyondError('PROTOCOL_VIOLATION', `A frame of type ${frame.type} is not expected here.`)
          })
        }
      } catch (error) {
        over.abort(asViolation(error))
      }
    }
    stream.onClosed = () => {
      over.abort(new BeyondError('UNREACHABLE', 'The stream was closed.'))
      writer.close()
    }
    stream.onReadable()
    try {
      const frame = await first.promise
      clearTimeout(timer)
      if (frame.type === frameType.statusRequest) {
        decode(() => envelopes.statusRequest.decode(frame.body))
        await writer.write(encodeFrame(frameType.status, envelopes.status.encode(await this.#options.status())), signal)
        return
      }
      if (frame.type !== frameType.subscribe) throw new BeyondError('PROTOCOL_VIOLATION', `A stream can't begin with a frame of type ${frame.type}.`)
      const request = decode(() => envelopes.subscribe.decode(frame.body))
      if (this.#sessions.size >= this.#options.maxSubscriptions)
        throw new BeyondError('TOO_MANY', `${this.#options.maxSubscriptions} subscriptions are served already.`)
      if (request.consumer !== null && [...this.#sessions].some(({ consumer }) => consumer === request.consumer))
        throw new BeyondError('CONSUMER_BUSY', `The consumer ${request.consumer} is connected already.`)
      session = new SubscriptionSession(this.#options, peer, request, writer, signal)
      this.#sessions.add(session)
      this.#logger.info({ subscription: String(peer.id), peer: peer.name, address: peer.address, from: request.from.kind }, 'subscribed')
      await session.run()
      throw signal.reason
    } catch (error) {
      this.#end(stream, peer, signal.aborted ? signal.reason : error, session?.betweenFrames ?? true)
    } finally {
      clearTimeout(timer)
      over.abort()
      if (session) this.#sessions.delete(session)
      stream.finish()
    }
  }

  /** Says why, as far as the peer still listens: one attempt, since nobody may wait for a peer that doesn't read. */
  #end(stream: QuicStream, peer: SessionPeer, error: unknown, betweenFrames: boolean): void {
    const code = codeOf(error)
    const fields = { subscription: String(peer.id), peer: peer.name, address: peer.address }
    if (code === 'INTERNAL' || code === 'LOG_CORRUPT') this.#logger.error({ ...fields, err: error }, 'subscription failed')
    else this.#logger.info({ ...fields, code }, 'subscription ended')
    if (code === 'UNREACHABLE') return
    const frame = endFrame(error)
    if (!betweenFrames || stream.write(frame) < frame.length) stream.reset(quicError.shutdown)
  }
}

function asViolation(error: unknown): BeyondError {
  return error instanceof BeyondError ? error : new BeyondError('PROTOCOL_VIOLATION', 'A frame can not be read.', { cause: error })
}

function decode<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw asViolation(error)
  }
}

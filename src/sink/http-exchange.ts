/** One request and its answer: reading a bounded body, answering JSON, sending bytes at the pace of the one who reads. */
import { once } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { BeyondError } from '../errors.ts'
import type { Peer } from './http-role.ts'

export type HttpLimits = {
  readonly connections: number
  /** Segments and histories that are sent at the same time. */
  readonly downloads: number
  readonly eventStreams: number
  readonly headerBytes: number
  readonly bodyBytes: number
  /** For a request to arrive whole. Milliseconds, as all that follow. */
  readonly requestMs: number
  /** A connection on which nothing happens. */
  readonly idleMs: number
  /** Between two pieces that the client takes. */
  readonly stallMs: number
  /** A download has this much, and the time that its bytes take at the slowest rate. */
  readonly downloadMs: number
  readonly slowestBytesPerSecond: number
  readonly heartbeatMs: number
}

export const defaultLimits: HttpLimits = {
  connections: 256,
  downloads: 64,
  eventStreams: 32,
  headerBytes: 16_384,
  bodyBytes: 1024 * 1024,
  requestMs: 10_000,
  idleMs: 60_000,
  stallMs: 20_000,
  downloadMs: 30_000,
  slowestBytesPerSecond: 65_536,
  heartbeatMs: 15_000,
}

export type Exchange = {
  readonly request: IncomingMessage
  /** HTTP/2 has its own class for it, which has what we use of this one. */
  readonly response: ServerResponse
  readonly peer: Peer
  readonly path: string
  readonly query: URLSearchParams
  /** Aborted when the client is gone or the server stops. */
  readonly gone: AbortSignal
}

export function answerJson({ request, response }: Pick<Exchange, 'request' | 'response'>, status: number, value: unknown): void {
  const body = Buffer.from(`${JSON.stringify(value)}\n`)
  response.statusCode = status
  response.setHeader('content-type', 'application/json; charset=utf-8')
  response.setHeader('content-length', body.length)
  response.setHeader('cache-control', 'no-store')
  response.end(request.method === 'HEAD' ? undefined : body)
}

/** The whole body. Throws BAD_REQUEST when it is too long or is cut off, TIMEOUT when it drips. */
export async function readBody({ request, gone }: Exchange, limits: HttpLimits): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const pieces: Buffer[] = []
  let bytes = 0
  const onData = (piece: Buffer): void => {
    bytes += piece.length
    pieces.push(piece)
    if (bytes > limits.bodyBytes) reject(new BeyondError('BAD_REQUEST', `A body has at most ${limits.bodyBytes} bytes.`))
  }
  const onEnd = (): void => resolve()
  const onGone = (): void => reject(new BeyondError('BAD_REQUEST', 'The body was cut off.'))
  const timer = setTimeout(() => reject(new BeyondError('TIMEOUT', `The body did not arrive within ${limits.requestMs} ms.`)), limits.requestMs)
  gone.addEventListener('abort', onGone, { once: true })
  request.on('data', onData).on('end', onEnd).on('close', onGone)
  try {
    await promise
    return Buffer.concat(pieces)
  } finally {
    clearTimeout(timer)
    gone.removeEventListener('abort', onGone)
    request.off('data', onData).off('end', onEnd).off('close', onGone).pause()
  }
}

/** A body that is one JSON object, with these fields and no others. */
export async function readJson(exchange: Exchange, limits: HttpLimits, fields: readonly string[]): Promise<Record<string, unknown>> {
  const text = (await readBody(exchange, limits)).toString('utf8')
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new BeyondError('BAD_REQUEST', 'The body is not JSON.', { cause: error })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new BeyondError('BAD_REQUEST', 'The body must be a JSON object.')
  const unknown = Object.keys(value).find((key) => !fields.includes(key))
  if (unknown !== undefined) throw new BeyondError('BAD_REQUEST', `The body has an unknown field ${JSON.stringify(unknown)}.`)
  return value as Record<string, unknown>
}

/**
 * Sends the pieces, one at a time: the next one is read when the connection has taken this one. Ends a client that takes
 * nothing, or takes it too slowly, so that nobody can hold files and memory of ours for long.
 */
export async function sendPieces(exchange: Exchange, pieces: AsyncIterable<Buffer>, bytes: number, limits: HttpLimits): Promise<number> {
  const { response, gone } = exchange
  const late = AbortSignal.timeout(Math.ceil(limits.downloadMs + (bytes * 1000) / limits.slowestBytesPerSecond))
  const over = AbortSignal.any([gone, late])
  let sent = 0
  try {
    for await (const piece of pieces) {
      over.throwIfAborted()
      sent += piece.length
      if (sent > bytes) throw new BeyondError('INTERNAL', 'An object is longer than it was said to be.')
      if (!response.write(piece)) await once(response, 'drain', { signal: AbortSignal.any([over, AbortSignal.timeout(limits.stallMs)]) })
    }
    if (sent < bytes) throw new BeyondError('INTERNAL', 'An object is shorter than it was said to be.')
    response.end()
  } catch (error) {
    // The headers are out: a connection that breaks is the only way left to say that this is not the object.
    response.destroy()
    if (error instanceof BeyondError) throw error
  }
  return sent
}

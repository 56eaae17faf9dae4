/**
 * Serves a sink over HTTPS: mutual TLS 1.3, HTTP/1.1 and HTTP/2 on one port. Owns the listener, its bounds, and what
 * happens to a request before and after its route; `http-routes.ts` says what can be asked.
 */
import { once } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { constants, createSecureServer, type Http2SecureServer, type Http2ServerRequest, type Http2ServerResponse, type ServerHttp2Session } from 'node:http2'
import type { AddressInfo } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { BeyondError, codeOf } from '../errors.ts'
import type { Logger } from '../logger.ts'
import { answerJson, defaultLimits, type Exchange, type HttpLimits } from './http-exchange.ts'
import { finalEnd, httpStatus } from './http-json.ts'
import { newCounters } from './http-metrics.ts'
import { mayAct, peerOf, type Peer, type RoleMap } from './http-role.ts'
import { routes, type Served } from './http-routes.ts'
import type { Sink } from './sink.ts'

/** PEM. `ca`: who signs clients. */
export type ServerTls = { readonly cert: string; readonly key: string; readonly ca: string; readonly crl?: string }

export type SinkServerOptions = {
  readonly sink: Sink
  readonly host: string
  /** 0: any free one. */
  readonly port: number
  readonly tls: ServerTls
  readonly roles: RoleMap
  readonly limits?: Partial<HttpLimits>
  readonly log: Logger
}

export type SinkServer = AsyncDisposable & {
  readonly port: number
  /** New certificates for connections from now on. */
  reload(tls: ServerTls): void
}

const HANDSHAKE_MS = 10_000
const STREAMS_PER_SESSION = 32
/** How often HTTP/1.1 connections are looked at for late requests. */
const LOOK_MS = 1_000

/** Throws PORT_IN_USE, BAD_CERTIFICATE. */
export async function serveSink(options: SinkServerOptions): Promise<SinkServer> {
  const limits = { ...defaultLimits, ...options.limits }
  const served: Served = { sink: options.sink, limits, counters: newCounters() }
  const stopping = new AbortController()
  const server = createServer(options, limits)
  const sockets = new Set<TLSSocket>()
  const sessions = new Set<ServerHttp2Session>()

  server.on('connection', (socket: TLSSocket) => {
    sockets.add(socket)
    served.counters.connections = sockets.size
    socket.on('error', () => undefined)
    socket.once('close', () => {
      sockets.delete(socket)
      served.counters.connections = sockets.size
    })
  })
  server.on('session', (session) => {
    sessions.add(session)
    session.once('close', () => sessions.delete(session))
    session.on('error', () => undefined)
    session.setTimeout(limits.idleMs, () => session.destroy())
  })
  // What a stranger sends wrong is not our trouble, and must not fill the log either.
  for (const event of ['tlsClientError', 'sessionError']) server.on(event, (_error, socket?: { destroy?: () => void }) => socket?.destroy?.())
  server.on('clientError', (_error, socket: TLSSocket) => socket.destroy())
  server.on('request', (request, response) => {
    void respond(request, response, options, served, stopping.signal).catch((error: unknown) => {
      options.log.error({ err: error }, 'a request could not be answered')
      response.stream?.destroy()
    })
  })
  server.listen({ host: options.host, port: options.port })
  await once(server, 'listening').catch((error: unknown) => {
    const facts = { host: options.host, port: options.port }
    throw new BeyondError('PORT_IN_USE', `Port ${options.port} of ${options.host} can't be listened on: choose another one.`, { cause: error, facts })
  })
  server.on('error', (error) => options.log.error({ err: error }, 'the listener failed'))

  return {
    port: (server.address() as AddressInfo).port,
    reload: (tls) => server.setSecureContext({ ...tls, minVersion: 'TLSv1.3' }),
    async [Symbol.asyncDispose]() {
      if (stopping.signal.aborted) return
      const closed = once(server, 'close')
      stopping.abort()
      server.close()
      for (const session of sessions) session.destroy()
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

function createServer({ tls }: SinkServerOptions, limits: HttpLimits): Http2SecureServer {
  let server: Http2SecureServer
  try {
    server = createSecureServer({
      ...tls,
      allowHTTP1: true,
      minVersion: 'TLSv1.3',
      requestCert: true,
      rejectUnauthorized: true,
      handshakeTimeout: HANDSHAKE_MS,
      maxSessionMemory: 4,
      settings: { maxConcurrentStreams: STREAMS_PER_SESSION, maxHeaderListSize: limits.headerBytes, enablePush: false },
    })
  } catch (error) {
    throw new BeyondError('BAD_CERTIFICATE', "The sink's certificate, its key or its authority can't be used.", { cause: error })
  }
  server.maxConnections = limits.connections
  // HTTP/1.1 connections of this server take their bounds from the same fields as those of an http.Server.
  const http1 = { maxHeaderSize: limits.headerBytes, headersTimeout: limits.requestMs, requestTimeout: limits.requestMs, keepAliveTimeout: limits.idleMs }
  Object.assign(server, http1, { maxHeadersCount: 64, connectionsCheckingInterval: Math.min(LOOK_MS, limits.requestMs) })
  server.setTimeout(limits.idleMs)
  return server
}

async function respond(
  request: IncomingMessage | Http2ServerRequest,
  response: ServerResponse | Http2ServerResponse,
  options: SinkServerOptions,
  served: Served,
  stopping: AbortSignal,
): Promise<void> {
  const left = new AbortController()
  response.once('close', () => {
    left.abort()
    const { requests } = served.counters
    requests.set(response.statusCode, (requests.get(response.statusCode) ?? 0) + 1)
  })
  // Over HTTP/2 an answer does not end what the client sends, and nobody reads that any more.
  if ('stream' in request && !request.stream.endAfterHeaders) {
    const { stream } = request
    stream.once('finish', () => !stream.readableEnded && stream.close(constants.NGHTTP2_NO_ERROR))
  }
  response.on('error', () => undefined)
  request.on('error', () => undefined)
  const [path, query = ''] = (request.url ?? '').split('?', 2)
  const exchange: Exchange = {
    request: request as IncomingMessage,
    response: response as ServerResponse,
    peer: peerOfRequest(request, options.roles),
    path,
    query: new URLSearchParams(query),
    gone: AbortSignal.any([left.signal, stopping]),
  }
  try {
    await dispatch(exchange, served)
  } catch (error) {
    answerError(exchange, error, served, options.log)
  }
}

async function dispatch(exchange: Exchange, served: Served): Promise<void> {
  const { request, response, path, peer } = exchange
  const method = request.method === 'HEAD' ? 'GET' : request.method
  const here = routes.filter((route) => route.path.test(path))
  if (here.length === 0) throw new BeyondError('BAD_REQUEST', 'There is no such path: see docs/sink-api.md.')
  const route = here.find((each) => each.method === method)
  if (!route) {
    response.setHeader('allow', here.flatMap((each) => (each.method === 'GET' ? ['GET', 'HEAD'] : [each.method])).join(', '))
    throw new BeyondError('BAD_REQUEST', 'This path does not take that method.', { facts: { status: 405 } })
  }
  if (!mayAct(peer.role, route.role))
    throw new BeyondError('FORBIDDEN', `This needs the role ${route.role}, and the certificate of ${peer.name ?? 'no name'} has the role ${peer.role}.`)
  await route.handle(exchange, served, route.path.exec(path)?.[1] ?? '')
}

function answerError(exchange: Exchange, error: unknown, served: Served, log: Logger): void {
  const { response, gone } = exchange
  const ours = error instanceof BeyondError
  if (!ours && !gone.aborted) log.error({ err: error, path: exchange.path }, 'a request failed')
  if (gone.aborted || response.headersSent) return void response.destroy()
  for (const name of response.getHeaderNames()) if (name !== 'allow') response.removeHeader(name)
  const code = codeOf(error)
  const status = ours && typeof error.facts['status'] === 'number' ? error.facts['status'] : httpStatus(error)
  if (status === 503) response.setHeader('retry-after', '1')
  // A body that we don't want to read to its end: HTTP/1.1 can't go on behind it.
  if (exchange.request.httpVersionMajor === 1 && !exchange.request.complete) response.setHeader('connection', 'close')
  const message = ours ? error.message : 'The sink could not do this; its log says why.'
  // Without it, "not found" means "not yet", and a recovery must not take it for the end of WAL.
  const sealed = code === 'NOT_FOUND' ? finalEnd(served.sink.status()) : undefined
  answerJson(exchange, status, { code, message, sealed })
}

function peerOfRequest(request: IncomingMessage | Http2ServerRequest, map: RoleMap): Peer {
  const socket = 'stream' in request ? (request.stream.session?.socket as TLSSocket | undefined) : (request.socket as TLSSocket)
  // Only ever a certificate that our authority signed: others do not get past the handshake.
  return peerOf(socket?.authorized ? socket.getPeerCertificate() : {}, map)
}

/**
 * The management socket of a box: `run/rpc.sock`, for the account that runs the box and for root. Who may connect is decided
 * three times over: by the folder, by the mode of the socket (0600), and by asking the kernel who the peer is.
 *
 * Everything is bounded: connections, requests at a time, the length of a line, the time that a line, a request or a slow
 * reader may take. Owns the socket's file and its connections; what a request does is the business of its method.
 */
import { chmodSync, lstatSync, renameSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { once } from 'node:events'
import { basename, dirname } from 'node:path'
import type { Logger } from 'pino'
import { BeyondError, codeOf, fromSystem } from '../errors.ts'
import { type Peer, peerOf } from './rpc-peer.ts'
import {
  decodeRequest,
  encodeError,
  encodeItem,
  encodeResult,
  LineReader,
  MAX_REQUEST_BYTES,
  type Params,
  type Request,
  type RequestId,
} from './rpc-protocol.ts'
import { openFolder } from './rpc-socket.ts'

export type MethodContext = {
  /** Aborts at the deadline, at a cancel, when the client is gone, and when the box stops. */
  readonly signal: AbortSignal
  /** One part of a streamed answer; resolves when the client has taken it, so a slow one slows the method down. */
  readonly send: (item: unknown) => Promise<void>
}

export type Method = {
  /** Undefined: as long as the client stays. */
  readonly deadlineMs: number | undefined
  /** Throws BAD_REQUEST for parameters that it can't use. */
  readonly run: (params: Params, context: MethodContext) => Promise<unknown>
}

export type Methods = ReadonlyMap<string, Method>

export type RpcBounds = {
  readonly connections: number
  /** Requests at a time, over all connections. */
  readonly requests: number
  /** From the first byte of a request to its last. Milliseconds. */
  readonly lineMs: number
  /** A connection on which nothing is asked for so long is closed. Milliseconds. */
  readonly idleMs: number
  /** A client that does not read for so long is cut off. Milliseconds. */
  readonly writeMs: number
}

export const rpcBounds: RpcBounds = { connections: 32, requests: 16, lineMs: 10_000, idleMs: 60_000, writeMs: 10_000 }

export type RpcServerOptions = {
  readonly path: string
  readonly methods: Methods
  readonly logger: Logger
  readonly bounds?: RpcBounds
}

export class RpcServer implements AsyncDisposable {
  readonly #options: Required<RpcServerOptions>
  readonly #server: Server
  readonly #closing = new AbortController()
  readonly #connections = new Set<RpcConnection>()
  #requests = 0
  #inode: bigint | undefined

  private constructor(options: RpcServerOptions) {
    this.#options = { bounds: rpcBounds, ...options }
    this.#server = createServer((socket) => this.#accept(socket))
  }

  /** Puts the socket in place, instead of one that an earlier supervisor left there or still serves. */
  static async listen(options: RpcServerOptions): Promise<RpcServer> {
    const server = new RpcServer(options)
    await server.#listen()
    return server
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closing.signal.aborted) return
    this.#closing.abort(new BeyondError('SHUTDOWN', 'The box is stopping.'))
    const { path } = this.#options
    // Not one that a successor has put in the place of ours.
    if (this.#inode !== undefined && lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino === this.#inode) rmSync(path, { force: true })
    this.#server.close()
    await Promise.all([...this.#connections].map((connection) => connection.end()))
  }

  async #listen(): Promise<void> {
    const { path } = this.#options
    const fresh = `${path}.new`
    rmSync(fresh, { force: true })
    using folder = openFolder(dirname(path))
    const mask = process.umask(0o177) // the file is made within listen(), before anybody could open it
    try {
      this.#server.listen(folder.below(basename(fresh)))
    } finally {
      process.umask(mask)
    }
    try {
      await once(this.#server, 'listening')
    } catch (error) {
      throw fromSystem(error, 'opening the management socket')
    }
    this.#server.on('error', (error) => this.#options.logger.warn({ err: error }, 'the management socket failed to accept'))
    chmodSync(fresh, 0o600)
    this.#inode = lstatSync(fresh, { bigint: true }).ino
    renameSync(fresh, path)
  }

  #accept(socket: Socket): void {
    socket.on('error', () => undefined) // its close tells
    const refuse = (error: BeyondError): void => {
      socket.end(encodeError(null, error))
      socket.resume()
      setTimeout(() => socket.destroy(), 1_000).unref()
    }
    if (this.#closing.signal.aborted) return refuse(new BeyondError('SHUTDOWN', 'The box is stopping.'))
    const peer = peerOf(socket)
    if (!mayManage(peer)) {
      this.#options.logger.warn({ peer }, 'refused a stranger on the management socket')
      return refuse(new BeyondError('NO_PERMISSION', 'Only the account that runs this box, and root, may manage it.'))
    }
    if (this.#connections.size >= this.#options.bounds.connections) {
      return refuse(new BeyondError('TOO_MANY', `There are ${this.#connections.size} connections already: try again.`))
    }
    const connection: RpcConnection = new RpcConnection(socket, this.#options.bounds, this.#closing.signal, (request, context) => this.#run(request, context))
    this.#connections.add(connection)
    socket.once('close', () => this.#connections.delete(connection))
  }

  async #run(request: Request, context: MethodContext): Promise<unknown> {
    const { methods, bounds, logger } = this.#options
    const method = methods.get(request.method)
    if (!method) throw new BeyondError('BAD_REQUEST', `This box has no method ${JSON.stringify(request.method.slice(0, 40))}: it has ${[...methods.keys()].join(', ')}.`)
    if (this.#requests >= bounds.requests) throw new BeyondError('TOO_MANY', `The box is busy with ${this.#requests} requests: try again.`)
    this.#requests++
    const deadlineMs = request.deadlineMs ?? method.deadlineMs
    const deadline = deadlineMs === undefined ? undefined : AbortSignal.timeout(deadlineMs)
    const signal = deadline ? AbortSignal.any([context.signal, deadline]) : context.signal
    const { promise: over, reject } = Promise.withResolvers<never>()
    const onAbort = (): void => {
      const late = deadline?.aborted && !context.signal.aborted
      reject(late ? new BeyondError('TIMEOUT', `${request.method} was not done within ${deadlineMs} ms.`) : signal.reason)
    }
    signal.addEventListener('abort', onAbort, { once: true })
    const work = Promise.resolve().then(() => {
      signal.throwIfAborted()
      return method.run(request.params, { signal, send: context.send })
    })
    // What no longer has anybody to answer still counts until it has really ended.
    work.catch(() => undefined).finally(() => this.#requests--)
    try {
      return await Promise.race([work, over])
    } catch (error) {
      if (codeOf(error) === 'INTERNAL' && !signal.aborted) logger.error({ err: error, method: request.method }, 'could not do what was asked')
      throw error
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }
}

type Run = (request: Request, context: MethodContext) => Promise<unknown>

/** One client: its requests, each of which can be cancelled, and its answers, in no particular order. */
class RpcConnection {
  readonly #socket: Socket
  readonly #bounds: RpcBounds
  readonly #run: Run
  readonly #lines = new LineReader(MAX_REQUEST_BYTES)
  readonly #running = new Map<RequestId, AbortController>()
  readonly #gone = new AbortController()
  #lineTimer: NodeJS.Timeout | undefined

  constructor(socket: Socket, bounds: RpcBounds, closing: AbortSignal, run: Run) {
    this.#socket = socket
    this.#bounds = bounds
    this.#run = run
    socket.setTimeout(bounds.idleMs, () => {
      if (this.#running.size === 0) socket.destroy()
    })
    socket.on('data', (chunk: Buffer) => this.#read(chunk))
    socket.once('close', () => {
      clearTimeout(this.#lineTimer)
      this.#gone.abort(new BeyondError('UNREACHABLE', 'The client is gone.'))
    })
    const onClosing = (): void => this.#gone.abort(closing.reason)
    closing.addEventListener('abort', onClosing, { once: true })
    socket.once('close', () => closing.removeEventListener('abort', onClosing))
  }

  /** After the answers that are being given. */
  async end(): Promise<void> {
    if (this.#socket.destroyed) return
    const closed = once(this.#socket, 'close').catch(() => undefined)
    // The aborts of running requests are answered in the microtasks before this.
    setImmediate(() => this.#socket.end(() => this.#socket.destroy()))
    setTimeout(() => this.#socket.destroy(), 1_000).unref()
    await closed
  }

  #read(chunk: Buffer): void {
    try {
      for (const line of this.#lines.push(chunk)) {
        if (this.#socket.destroyed) return
        this.#take(line)
      }
    } catch (error) {
      return this.#hangUp(error)
    }
    if (!this.#lines.partial) {
      clearTimeout(this.#lineTimer)
      this.#lineTimer = undefined
    } else {
      this.#lineTimer ??= setTimeout(() => this.#hangUp(new BeyondError('TIMEOUT', `The request did not end within ${this.#bounds.lineMs} ms.`)), this.#bounds.lineMs)
    }
  }

  #take(line: Uint8Array): void {
    const message = decodeRequest(line)
    switch (message.kind) {
      case 'refusal':
        if (message.id === null) throw message.error
        this.#write(encodeError(message.id, message.error))
        return
      case 'cancel':
        this.#running.get(message.id)?.abort(new BeyondError('SHUTDOWN', 'The request was cancelled.'))
        return
      case 'request':
        void this.#answer(message)
    }
  }

  async #answer(request: Request): Promise<void> {
    const { id } = request
    if (this.#running.has(id)) {
      this.#write(encodeError(id, new BeyondError('BAD_REQUEST', `A request with id ${JSON.stringify(id)} is still running here.`)))
      return
    }
    const cancel = new AbortController()
    this.#running.set(id, cancel)
    let open = true
    try {
      const signal = AbortSignal.any([cancel.signal, this.#gone.signal])
      const send = async (item: unknown): Promise<void> => {
        signal.throwIfAborted()
        if (!open || this.#socket.destroyed) throw new BeyondError('UNREACHABLE', 'The client is gone.')
        if (!this.#write(encodeItem(id, item))) await this.#drained(signal)
      }
      const result = await this.#run(request, { signal, send })
      this.#write(encodeResult(id, result))
    } catch (error) {
      this.#write(encodeError(id, error))
    } finally {
      open = false
      this.#running.delete(id)
    }
  }

  /** False when the client does not read as fast as it is told. Who has read nothing of very much is cut off. */
  #write(text: string): boolean {
    if (this.#socket.destroyed || this.#socket.writableEnded) return true
    const taken = this.#socket.write(text)
    if (this.#socket.writableLength > MAX_UNREAD_BYTES) this.#socket.destroy()
    return taken
  }

  async #drained(signal: AbortSignal): Promise<void> {
    const patience = AbortSignal.timeout(this.#bounds.writeMs)
    try {
      await once(this.#socket, 'drain', { signal: AbortSignal.any([signal, patience]) })
    } catch {
      if (patience.aborted) this.#socket.destroy()
      signal.throwIfAborted()
    }
  }

  #hangUp(error: unknown): void {
    if (this.#socket.writableEnded) return
    this.#socket.pause()
    this.#socket.end(encodeError(null, error), () => this.#socket.destroy())
    setTimeout(() => this.#socket.destroy(), 1_000).unref()
  }
}

const MAX_UNREAD_BYTES = 4 * 1024 * 1024

function mayManage(peer: Peer | undefined): boolean {
  return peer !== undefined && (peer.uid === 0 || peer.uid === process.getuid?.())
}

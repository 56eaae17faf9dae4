/**
 * The fetcher: stays beside a Postgres that recovers, keeps connections to the sinks, and fetches ahead of it.
 *
 * Postgres runs one restore_command per file. What was fetched ahead lies checked in the folder `ready` under its own
 * name, so that the command is a `mv`; whatever is not there is asked for on the socket. Only whole, closed segments are
 * put there: a last one, cut off at the end of WAL, and the end itself are decided when they are asked for, never from
 * what was true some time ago.
 */
import { chmod, mkdir, rename, rm, stat } from 'node:fs/promises'
import { existsSync, watch, type FSWatcher } from 'node:fs'
import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { BeyondError, fromSystem } from '../errors.ts'
import type { Logger } from '../logger.ts'
import { parseSegmentFileName, segmentFileName } from '../wal/segment-name.ts'
import { fetchOnce, fetchUntil, type FetchSource } from './fetch-object.ts'
import { MAX_LINE_BYTES, type FetcherAnswer } from './fetch-socket.ts'

export type FetcherOptions = FetchSource & {
  /** Ours alone: emptied at the start and removed at the end. On the volume of the data directory, so that `mv` is a rename. */
  readonly directory: string
  readonly socket: string
  /** Bytes of segments that lie ready or are on their way. */
  readonly aheadBytes?: number
  readonly parallel?: number
  /** For one request. Milliseconds. */
  readonly deadlineMs: number
  readonly log: Logger
}

const AHEAD_BYTES = 256 * 1024 * 1024
const MAX_CONNECTIONS = 32
/** sun_path of Linux, with its end. */
const MAX_SOCKET_PATH = 107
/** After the sinks had no more: the next request may well be for something that they have by then. */
const AGAIN_MS = 1_000

export const readyFolder = (directory: string): string => join(directory, 'ready')

/** Throws LOCKED, BAD_ARGUMENT, NO_PERMISSION. */
export async function startFetcher(options: FetcherOptions): Promise<AsyncDisposable> {
  if (Buffer.byteLength(options.socket) > MAX_SOCKET_PATH)
    throw new BeyondError('BAD_ARGUMENT', `The path of a socket has at most ${MAX_SOCKET_PATH} bytes: ${options.socket} is longer.`)
  const fetcher = new Fetcher(options)
  try {
    await fetcher.start()
  } catch (error) {
    await fetcher[Symbol.asyncDispose]()
    throw fromSystem(error, 'starting the fetcher')
  }
  return fetcher
}

class Fetcher implements AsyncDisposable {
  readonly #options: FetcherOptions
  readonly #ready: string
  readonly #stop = new AbortController()
  readonly #sockets = new Set<Socket>()
  readonly #server = createServer((socket) => void this.#serve(socket))
  /** Names that are ready or on their way. */
  readonly #ahead = new Map<string, Promise<boolean>>()
  #watcher: FSWatcher | undefined
  #timer: NodeJS.Timeout | undefined
  /** The segment that Postgres wants next, as far as we can tell. */
  #next: { readonly timeline: number; readonly number: bigint; readonly segmentBytes: number } | undefined
  /** Found to be past what the sinks have closed. */
  #edge: { readonly name: string; readonly until: number } | undefined
  #handed = 0

  constructor(options: FetcherOptions) {
    this.#options = options
    this.#ready = readyFolder(options.directory)
  }

  async start(): Promise<void> {
    const { directory, socket } = this.#options
    await rm(directory, { recursive: true, force: true })
    await mkdir(this.#ready, { recursive: true, mode: 0o700 })
    await rm(socket, { force: true })
    this.#server.maxConnections = MAX_CONNECTIONS
    this.#server.listen(socket)
    await once(this.#server, 'listening')
    await chmod(socket, 0o600)
    // The folder tells what was taken; the timer is for what a watch may miss.
    this.#watcher = watch(this.#ready, () => this.#look())
    this.#watcher.on('error', (error) => this.#options.log.warn({ err: error }, 'the folder of fetched segments is not watched'))
    this.#timer = setInterval(() => this.#look(), AGAIN_MS)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort()
    clearInterval(this.#timer)
    this.#watcher?.close()
    for (const socket of this.#sockets) socket.destroy()
    if (this.#server.listening) {
      const closed = once(this.#server, 'close')
      this.#server.close()
      await closed
    }
    await Promise.allSettled(this.#ahead.values())
    await rm(this.#options.directory, { recursive: true, force: true })
  }

  async #serve(socket: Socket): Promise<void> {
    this.#sockets.add(socket)
    socket.on('error', () => undefined)
    const left = new AbortController()
    let handed: string | undefined
    socket.once('close', () => {
      this.#sockets.delete(socket)
      left.abort()
      // What was not taken by now never will be.
      if (handed) void rm(handed, { force: true })
    })
    try {
      const line = await readLine(socket)
      const answer = await this.#answer(line, AbortSignal.any([left.signal, this.#stop.signal]))
      if (answer.result === 'file') handed = answer.path
      if (socket.destroyed && handed) await rm(handed, { force: true })
      else socket.write(`${JSON.stringify(answer)}\n`)
    } catch (error) {
      if (left.signal.aborted) return
      const { message, code } = error instanceof BeyondError ? error : fromSystem(error, 'fetching')
      if (!this.#stop.signal.aborted) this.#options.log.warn({ code }, message)
      socket.end(`${JSON.stringify({ result: 'failed', message } satisfies FetcherAnswer)}\n`)
    }
  }

  async #answer(line: string, signal: AbortSignal): Promise<FetcherAnswer> {
    const { name } = JSON.parse(line) as { name?: unknown }
    if (typeof name !== 'string') throw new BeyondError('BAD_REQUEST', 'A request is {"name": …}.')
    const handed = join(this.#options.directory, `handed-${this.#handed++}`)
    // It may have become ready since the command looked, or be on its way.
    if (!(await this.#ahead.get(name)) || !(await moved(join(this.#ready, name), handed))) {
      const verdict = await fetchUntil(this.#options, name, `${handed}-`, { deadlineMs: this.#options.deadlineMs, signal })
      if (verdict.kind === 'end') return { result: 'end' }
      await rename(verdict.path, handed)
    }
    const segmentBytes = name.endsWith('.history') ? undefined : (await stat(handed)).size
    const segment = segmentBytes === undefined ? undefined : parseSegmentFileName(name, segmentBytes)
    if (segment && segmentBytes !== undefined) {
      this.#next = { timeline: segment.timeline, number: segment.number + 1n, segmentBytes }
      this.#edge = undefined
      this.#look()
    }
    return { result: 'file', path: handed }
  }

  /** Drops what is no longer ahead, moves on past what was taken, and fetches what the window has room for. */
  #look(): void {
    const next = this.#next
    if (!next || this.#stop.signal.aborted) return
    const { aheadBytes = AHEAD_BYTES, parallel = 4 } = this.#options
    const window = Math.max(1, Math.floor(aheadBytes / next.segmentBytes))
    const name = (number: bigint): string => segmentFileName({ timeline: next.timeline as never, number }, next.segmentBytes)

    // `mv` has taken those that were ready and are gone: the last of them says where Postgres is.
    let number = next.number
    for (let i = 0; i < window; i++) if (this.#isTaken(name(next.number + BigInt(i)))) number = next.number + BigInt(i) + 1n
    this.#next = { ...next, number }
    const wanted = Array.from({ length: window }, (_, i) => name(number + BigInt(i)))
    for (const [each, fetched] of this.#ahead)
      if (!wanted.includes(each)) {
        this.#ahead.delete(each)
        void fetched.then(() => rm(join(this.#ready, each), { force: true }))
        this.#done.delete(each)
      }

    if (this.#edge && this.#edge.until < performance.now()) this.#edge = undefined
    for (const each of wanted) {
      if (this.#ahead.size - this.#done.size >= parallel) break
      if (this.#edge && each >= this.#edge.name) break
      if (!this.#ahead.has(each)) this.#fetchAhead(each)
    }
  }

  /** Ready: fetched, and put into the folder. */
  readonly #done = new Set<string>()

  #isTaken(name: string): boolean {
    return this.#done.has(name) && !existsSync(join(this.#ready, name))
  }

  #fetchAhead(name: string): void {
    const beside = join(this.#options.directory, `ahead-${name}-`)
    const fetched = this.#fetchClosed(name, beside).then(
      (isReady) => {
        if (isReady && this.#ahead.get(name) === fetched) this.#done.add(name)
        else if (!isReady) this.#forget(name, fetched)
        this.#look()
        return isReady
      },
      () => {
        this.#forget(name, fetched)
        return false
      },
    )
    this.#ahead.set(name, fetched)
  }

  /** Nothing is repeated here: what fails is fetched again when it is asked for, with patience and with a reason. */
  async #fetchClosed(name: string, beside: string): Promise<boolean> {
    const { sinks, systemId } = this.#options
    const number = Number(this.#next?.number ?? 0n)
    // One answer decides for a closed segment, and no number of them is enough for anything else.
    const verdict = await fetchOnce({ sinks, systemId, needed: Infinity }, name, beside, this.#stop.signal, number % sinks.length)
    if (verdict.kind !== 'take') return false
    await rename(verdict.path, join(this.#ready, name))
    return true
  }

  #forget(name: string, fetched: Promise<boolean>): void {
    if (this.#ahead.get(name) === fetched) this.#ahead.delete(name)
    if (this.#edge === undefined || name < this.#edge.name) this.#edge = { name, until: performance.now() + AGAIN_MS }
  }
}

async function moved(from: string, to: string): Promise<boolean> {
  try {
    await rename(from, to)
    return true
  } catch {
    return false
  }
}

async function readLine(socket: Socket): Promise<string> {
  let text = ''
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  socket.setEncoding('utf8').on('data', (piece: string) => {
    text += piece
    if (text.includes('\n')) resolve(text.slice(0, text.indexOf('\n')))
    else if (text.length > MAX_LINE_BYTES) reject(new BeyondError('BAD_REQUEST', 'A request is too long.'))
  })
  socket.once('close', () => reject(new BeyondError('UNREACHABLE', 'The connection ended.')))
  return promise
}

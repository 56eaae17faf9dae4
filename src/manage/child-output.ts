/**
 * What a child prints, through a named pipe (fifo(7)) that outlives us: its reader may be killed and another one goes on where it was.
 *
 * The child holds the pipe open for reading too, so writing never fails with EPIPE while nobody reads, and what it wrote last waits in
 * the kernel (64 kB) for the next reader. It is opened without blocking: when that is full, lines are dropped and the child goes on, for
 * a database must not wait for its log. Not a file: one would have to be rotated under its writer, and with a full disk the very line
 * that says so would be lost.
 */
import { spawnSync } from 'node:child_process'
import { constants, lstatSync, openSync, readSync, rmSync } from 'node:fs'
import { Socket } from 'node:net'
import { join } from 'node:path'
import { StringDecoder } from 'node:string_decoder'
import { BeyondError } from '../errors.ts'
import { LineSplitter } from './log-line.ts'

const LAST_LINES = 20
const FLAGS = constants.O_RDWR | constants.O_NONBLOCK
const READ_BYTES = 65_536

export const outputFile = (runDirectory: string, name: string): string => join(runDirectory, `${name}.out`)

export class ChildOutput implements Disposable {
  readonly #path: string
  readonly #fd: number
  readonly #socket: Socket
  readonly #splitter: LineSplitter
  readonly #decoder = new StringDecoder('utf8')
  #lastLines: string[] = []
  #closed = false

  constructor(path: string, onLine: (line: string) => void) {
    this.#path = path
    ensurePipe(path)
    this.#splitter = new LineSplitter((line) => {
      this.#lastLines.push(line)
      if (this.#lastLines.length > LAST_LINES) this.#lastLines.shift()
      onLine(line)
    })
    this.#fd = openSync(path, FLAGS)
    this.#socket = new Socket({ fd: this.#fd, readable: true, writable: false })
    this.#socket.on('data', (bytes: Buffer) => this.#splitter.push(this.#decoder.write(bytes)))
    this.#socket.on('error', () => undefined) // a pipe that we hold open ourselves has no peer that could fail
    this.#socket.unref()
  }

  /** Standard output and standard error of a child that is started; `handedOver` has to follow. */
  openForChild(): number {
    this.#lastLines = []
    return openSync(this.#path, FLAGS)
  }

  /**
   * Once the child has started. The runtime makes standard streams blocking for the programs that it starts; a pipe that is opened by
   * the runtime itself is made non-blocking, and that holds for all who share the descriptor.
   */
  handedOver(fd: number): void {
    new Socket({ fd, readable: false, writable: true }).on('error', () => undefined).destroy() // closes it
  }

  /** What was printed last, at most twenty lines. */
  get lastLines(): readonly string[] {
    return this.#lastLines
  }

  /** Takes what is still in the pipe, at once: the last words of a child that has ended. */
  drain(): void {
    const buffer = Buffer.allocUnsafe(READ_BYTES)
    while (!this.#closed) {
      const bytes = readAvailable(this.#fd, buffer)
      if (bytes === 0) break
      this.#splitter.push(this.#decoder.write(buffer.subarray(0, bytes)))
    }
    this.#splitter.end()
  }

  [Symbol.dispose](): void {
    this.#closed = true
    this.#socket.destroy()
  }
}

function readAvailable(fd: number, buffer: Buffer): number {
  try {
    return readSync(fd, buffer)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return 0
    throw error
  }
}

/** Made once, and kept from start to start: a child that lives on has it open. */
function ensurePipe(path: string): void {
  const stats = lstatSync(path, { throwIfNoEntry: false })
  if (stats?.isFIFO()) return
  rmSync(path, { force: true })
  const { status, stderr, error } = spawnSync('mkfifo', ['-m', '600', path], { encoding: 'utf8' })
  if (status === 0) return
  const why = error?.message ?? stderr.trim()
  throw new BeyondError('INTERNAL', `Can't make the pipe ${path}: ${why}.`, { cause: error, facts: { path } })
}


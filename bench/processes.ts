/** Processes of a measurement: workers that are told what to do over IPC, and what Linux says about any process. */
import { fork, type ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

/** Milliseconds of CLOCK_MONOTONIC, which all processes of a machine share. */
export const now = (): number => Number(process.hrtime.bigint()) / 1e6

/** USER_HZ, which is 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100
const SAMPLE_MS = 50
const LEAVE_MS = 10_000

function stat(pid: number | 'self'): string[] {
  const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
  // The second field is a name in parentheses, which may hold anything; what follows it begins with field 3.
  return text.slice(text.lastIndexOf(')') + 2).split(' ')
}

/** CPU seconds, user and system, of all threads of a process. */
export function cpuSeconds(pid: number): number {
  const fields = stat(pid)
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND
}

/** CPU seconds of the children of this process that have ended. */
export function endedChildrenCpuSeconds(): number {
  const fields = stat('self')
  return (Number(fields[13]) + Number(fields[14])) / TICKS_PER_SECOND
}

/** Resident memory, MB. */
export function residentMegabytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))![1]) / 1024
}

/** Keeps the CPU time of a process that may end at any moment. */
export class CpuSampler implements Disposable {
  readonly #pid: number
  readonly #from: number
  #last: number
  readonly #timer: NodeJS.Timeout

  constructor(pid: number, from = cpuSeconds(pid)) {
    this.#pid = pid
    this.#from = this.#last = from
    this.#timer = setInterval(() => this.#sample(), SAMPLE_MS)
  }

  /** Since it was made, or until shortly before the process has ended. */
  get seconds(): number {
    this.#sample()
    return this.#last - this.#from
  }

  #sample(): void {
    try {
      this.#last = cpuSeconds(this.#pid)
    } catch {
      // It has ended: the last value stays.
    }
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer)
  }
}

/** A worker script beside this file. Its messages are objects with a `kind`. */
export class Worker implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #received: { kind: string }[] = []
  #wake: () => void = () => {}

  private constructor(script: string) {
    this.#child = fork(fileURLToPath(new URL(script, import.meta.url)), [], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    this.#child.on('message', (message: { kind: string }) => {
      this.#received.push(message)
      this.#wake()
    })
    this.#child.on('exit', () => this.#wake())
  }

  /** Resolves when the script has been loaded and says so. */
  static async start(script: string): Promise<Worker> {
    const worker = new Worker(script)
    await worker.next('loaded', 30_000)
    return worker
  }

  get pid(): number {
    return this.#child.pid!
  }

  send(message: object): void {
    this.#child.send(message)
  }

  /** The next message of that kind. */
  async next<T>(kind: string, timeoutMs: number): Promise<T> {
    const deadline = now() + timeoutMs
    for (;;) {
      const at = this.#received.findIndex((message) => message.kind === kind)
      if (at >= 0) return this.#received.splice(at, 1)[0] as T
      if (this.#child.exitCode !== null || this.#child.signalCode !== null) throw new Error(`a worker ended while "${kind}" was waited for`)
      if (now() > deadline) throw new Error(`a worker did not say "${kind}" within ${timeoutMs} ms`)
      const { promise, resolve } = Promise.withResolvers<void>()
      this.#wake = resolve
      const timer = new AbortController()
      await Promise.race([promise, sleep(Math.max(1, deadline - now()), undefined, { signal: timer.signal }).catch(() => {})])
      timer.abort()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const gone = new Promise((resolve) => this.#child.once('exit', resolve))
    // It leaves by itself, so that it can write its profile where one is asked for.
    this.#child.disconnect()
    const late = setTimeout(() => this.#child.kill('SIGKILL'), LEAVE_MS)
    await gone
    clearTimeout(late)
  }
}

/** The worker's side: says "loaded", then hands each message to `onMessage`. */
export function serveWorker<T>(onMessage: (message: T, send: (answer: object) => void) => void | Promise<void>): void {
  const send = (answer: object): void => void process.send!(answer)
  process.on('message', (message: T) => void Promise.resolve(onMessage(message, send)).catch((error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`)
    process.exit(1)
  }))
  process.on('disconnect', () => process.exit(0))
  send({ kind: 'loaded' })
}

/**
 * A child that is kept running: started, waited for until it serves, started again with a back-off of its own when it ends,
 * stopped step by step. One loop per child, so none of them delays another or a shutdown.
 *
 *   waiting → starting → running → (ended) → backing-off → starting …        any → stopped
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { BeyondError } from '../errors.ts'
import { ChildProcess, type Command, describeExit, type Exit } from './child-process.ts'
import { type LogLine, tellsDiskFull } from './log-line.ts'
import { afterExit, noRestarts, type RestartHistory } from './restart-policy.ts'

export type StopStep = { readonly signal: NodeJS.Signals; readonly withinMs: number }

export type ChildSpec = Omit<Command, 'onLine'> & {
  /** Reads a line of its output. */
  readonly interpret: (line: string) => LogLine
  /** Takes lines that are not for the log, such as a message that it is ready; true when taken. */
  readonly takeLine?: (line: string, stream: 'stdout' | 'stderr') => boolean
  /** Before each start. */
  readonly prepare?: (signal: AbortSignal) => Promise<void>
  /** Resolves when it serves; looks again and again until its signal aborts. */
  readonly ready: (process: ChildProcess, signal: AbortSignal) => Promise<void>
  /** Undefined: as long as it lives. Crash recovery may take minutes. */
  readonly readyWithinMs?: number
  /** Whether trying again soon is no use. */
  readonly isHopeless?: (exit: Exit) => boolean
  /** While it still serves, at the start of an orderly stop. */
  readonly beforeStop?: (signal: AbortSignal) => Promise<void>
  /** One after the other, until it is gone; SIGKILL for the group comes last by itself. */
  readonly stopSteps: readonly StopStep[]
  /** What ends it when there is no time. */
  readonly hurrySignal: NodeJS.Signals
}

export type ChildState =
  | { readonly status: 'waiting' }
  | { readonly status: 'starting'; readonly process: ChildProcess }
  | { readonly status: 'running'; readonly process: ChildProcess; readonly since: number }
  | { readonly status: 'backing-off'; readonly untilMs: number }
  | { readonly status: 'stopped' }

type Surroundings = { readonly runDirectory: string; readonly logger: Logger; readonly now?: () => number }

const HURRY_MS = 5_000
/** How often a long start, such as a crash recovery, is told about. */
const PROGRESS_MS = 10_000

export class SupervisedChild {
  readonly #spec: ChildSpec
  readonly #surroundings: Surroundings
  readonly #logger: Logger
  readonly #stopping = new AbortController()
  #state: ChildState = { status: 'waiting' }
  #loop: Promise<void> | undefined
  #history: RestartHistory = noRestarts

  constructor(spec: ChildSpec, surroundings: Surroundings) {
    this.#spec = spec
    this.#surroundings = surroundings
    this.#logger = surroundings.logger.child({ child: spec.name })
  }

  get state(): ChildState {
    return this.#state
  }

  /** Keeps it running from now on. Resolves when it serves for the first time, rejects when its first start fails. */
  start(): Promise<void> {
    const first = Promise.withResolvers<void>()
    this.#loop = this.#keepRunning(first)
    return first.promise
  }

  /** Ends it for good. Aborting `hurry` cuts every wait short. Calling it twice, or before the start, is harmless. */
  async stop(hurry: AbortSignal): Promise<void> {
    const state = this.#state
    if (!this.#stopping.signal.aborted) {
      if (state.status === 'running' && !hurry.aborted) await this.#beforeStop(hurry)
      this.#stopping.abort()
    }
    const now = this.#state // may have changed while waiting
    if (now.status === 'starting' || now.status === 'running') await this.#end(now.process, hurry)
    await this.#loop
    this.#state = { status: 'stopped' }
  }

  async #keepRunning(first: PromiseWithResolvers<void>): Promise<void> {
    const { signal } = this.#stopping
    while (!signal.aborted) {
      const startedAt = this.#now()
      let problem: BeyondError
      let hopeless = false
      try {
        await this.#spec.prepare?.(signal)
        if (signal.aborted) break
        const process = this.#spawn()
        const exit = await this.#watch(process, first)
        if (signal.aborted) break
        hopeless = this.#spec.isHopeless?.(exit) ?? false
        problem = failure(this.#spec.name, exit, process.lastLines.map((line) => this.#spec.interpret(line)))
      } catch (error) {
        if (signal.aborted) break
        problem = error instanceof BeyondError ? error : new BeyondError('INTERNAL', String(error), { cause: error })
      }
      const decision = afterExit(this.#history, this.#now() - startedAt, hopeless)
      this.#history = decision.history
      this.#logger.error({ err: { code: problem.code, message: problem.message }, attempt: decision.history.attempt, againInMs: decision.delayMs }, 'ended')
      this.#state = { status: 'backing-off', untilMs: this.#now() + decision.delayMs }
      first.reject(problem)
      await sleep(decision.delayMs, undefined, { signal }).catch(() => undefined)
    }
    first.reject(new BeyondError('SHUTDOWN', `${this.#spec.name} was stopped before it was ready.`))
  }

  #spawn(): ChildProcess {
    const { takeLine, interpret } = this.#spec
    const onLine = (line: string, stream: 'stdout' | 'stderr') => {
      if (takeLine?.(line, stream)) return
      const { level, text, fields } = interpret(line)
      this.#logger[level](fields ?? {}, text)
    }
    return new ChildProcess({ ...this.#spec, onLine }, this.#surroundings.runDirectory)
  }

  /** From the start of the process to its end. */
  async #watch(process: ChildProcess, first: PromiseWithResolvers<void>): Promise<Exit> {
    this.#state = { status: 'starting', process }
    const over = new AbortController()
    const { readyWithinMs } = this.#spec
    const patience = readyWithinMs === undefined ? [] : [AbortSignal.timeout(readyWithinMs)]
    const readySignal = AbortSignal.any([over.signal, this.#stopping.signal, ...patience])
    const ready = this.#spec.ready(process, readySignal).then(
      () => true,
      () => false,
    )
    const progress = setInterval(() => this.#logger.warn({ lastLine: process.lastLines.at(-1) }, 'still starting'), PROGRESS_MS)
    const isReady = await Promise.race([ready, process.exited.then(() => false)])
    clearInterval(progress)
    if (isReady) {
      this.#state = { status: 'running', process, since: this.#now() }
      this.#logger.info({ childPid: process.pid }, 'ready')
      first.resolve()
    } else if (!this.#stopping.signal.aborted) {
      if (patience[0]?.aborted) this.#logger.error({ withinMs: readyWithinMs }, 'not ready in time')
      process.killGroup()
    }
    const exit = await process.exited
    over.abort()
    return exit
  }

  async #beforeStop(hurry: AbortSignal): Promise<void> {
    try {
      await this.#spec.beforeStop?.(hurry)
    } catch (error) {
      this.#logger.warn({ err: error }, 'could not prepare its stop')
    }
  }

  async #end(process: ChildProcess, hurry: AbortSignal): Promise<void> {
    for (const step of this.#spec.stopSteps) {
      if (hurry.aborted) break
      process.signal(step.signal)
      if (await endsWithin(process, step.withinMs, hurry)) return
      if (!hurry.aborted) this.#logger.warn({ signal: step.signal, withinMs: step.withinMs }, 'does not end')
    }
    if (this.#spec.hurrySignal !== 'SIGKILL') {
      process.signal(this.#spec.hurrySignal)
      if (await endsWithin(process, HURRY_MS)) return
    }
    process.killGroup()
    await process.exited
  }

  #now(): number {
    return this.#surroundings.now?.() ?? Date.now()
  }
}

async function endsWithin(process: ChildProcess, milliseconds: number, hurry?: AbortSignal): Promise<boolean> {
  const over = new AbortController()
  const signal = hurry ? AbortSignal.any([over.signal, hurry]) : over.signal
  const timeout = sleep(milliseconds, false, { signal }).catch(() => false)
  const ended = await Promise.race([process.exited.then(() => true), timeout])
  over.abort()
  return ended
}

/** The end of a child as an error, with its last words. */
function failure(name: string, exit: Exit, lines: readonly LogLine[]): BeyondError {
  const texts = lines.map((line) => line.text)
  const why = texts.slice(-3).join(' / ')
  const facts = { exitCode: exit.code, signal: exit.signal }
  if (tellsDiskFull(texts)) {
    return new BeyondError('DISK_FULL', `The disk is full, so ${name} ended: make room and start again.`, { facts })
  }
  if (exit.failure) return new BeyondError('CHILD_FAILED', `${name} could not be started: ${exit.failure.message}.`, { cause: exit.failure, facts })
  return new BeyondError('CHILD_FAILED', `${name} ended with ${describeExit(exit)}${why === '' ? '' : `: ${why}`}`, { facts })
}

/**
 * A child that is kept running: started or, when an earlier supervisor left it running, adopted; waited for until it serves; started
 * again with a back-off of its own when it ends; stopped step by step. One loop per child, so none of them delays another or a shutdown.
 *
 *   waiting → starting → running → (ended) → backing-off → starting …        any → stopped
 */
import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { BeyondError } from '../errors.ts'
import { AdoptedProcess } from './adopted-process.ts'
import { ChildOutput, outputFile } from './child-output.ts'
import { ChildProcess, type Command, describeExit, type ProcessRecord, writeRecord } from './child-process.ts'
import { classifyExit } from './exit-class.ts'
import type { LogLine } from './log-line.ts'
import { afterExit, noRestarts, type RestartHistory } from './restart-policy.ts'
import type { Exit, RunningProcess } from './running-process.ts'

export type StopStep = { readonly signal: NodeJS.Signals; readonly withinMs: number }

export type ChildSpec = Command & {
  /** How readily the kernel ends it when memory runs out, -1000 to 1000; its own children inherit it. Tried as root only. */
  readonly oomScoreAdj?: number
  /** Reads a line of its output. */
  readonly interpret: (line: string) => LogLine
  /** Takes lines that are not for the log, such as a message that it is ready; true when taken. */
  readonly takeLine?: (line: string) => boolean
  /** What it reads at its start only, besides its arguments: one that runs with another text here is not kept. */
  readonly settings?: string
  /** Before each start. */
  readonly prepare?: (signal: AbortSignal) => Promise<void>
  /** Resolves when it serves; looks again and again until its signal aborts. */
  readonly ready: (process: RunningProcess, signal: AbortSignal) => Promise<void>
  /** Undefined: as long as it lives. Crash recovery may take minutes. */
  readonly readyWithinMs?: number
  /**
   * Asked from time to time while it runs; rejects when there is no answer. One that gives none several times in a row is ended and
   * started again, or only told about: a database that is busy must not be killed for it.
   */
  readonly liveness?: { readonly ask: () => Promise<void>; readonly everyMs: number; readonly otherwise: 'restart' | 'warn' }
  /** Makes it read its config files again. */
  readonly reloadSignal?: NodeJS.Signals
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
  | { readonly status: 'starting'; readonly process: RunningProcess }
  | { readonly status: 'running'; readonly process: RunningProcess; readonly since: number }
  | { readonly status: 'backing-off'; readonly untilMs: number }
  | { readonly status: 'stopped' }

type Surroundings = {
  readonly runDirectory: string
  readonly logger: Logger
  readonly now?: () => number
  /** What an earlier supervisor left running under this name. */
  readonly survivor?: ProcessRecord | undefined
}

type Waiter = { readonly resolve: () => void; readonly reject: (error: Error) => void }

const HURRY_MS = 5_000
const UNANSWERED_MOST = 3
/** How often a long start, such as a crash recovery, is told about. */
const PROGRESS_MS = 10_000

export class SupervisedChild {
  readonly #spec: ChildSpec
  readonly #surroundings: Surroundings
  readonly #logger: Logger
  readonly #stopping = new AbortController()
  #opened: ChildOutput | undefined
  #survivor: ProcessRecord | undefined
  #state: ChildState = { status: 'waiting' }
  #loop: Promise<void> | undefined
  #history: RestartHistory = noRestarts
  /** Those who want to hear how the start that is under way goes. */
  #waiters: Waiter[] = []
  /** Those who asked for a restart: they want to hear of the start after this one. */
  #plans: Waiter[] = []
  #backOff = new AbortController()
  #released = false
  #restarts = 0

  constructor(spec: ChildSpec, surroundings: Surroundings) {
    this.#spec = spec
    this.#surroundings = surroundings
    this.#survivor = surroundings.survivor
    this.#logger = surroundings.logger.child({ child: spec.name })
  }

  get name(): string {
    return this.#spec.name
  }

  get stopSteps(): readonly StopStep[] {
    return this.#spec.stopSteps
  }

  get state(): ChildState {
    return this.#state
  }

  /** How often it was started again since this supervisor runs, planned restarts included. */
  get restarts(): number {
    return this.#restarts
  }

  /** It was there before this supervisor. */
  get ranBefore(): boolean {
    const state = this.#state
    return this.#survivor !== undefined || ((state.status === 'starting' || state.status === 'running') && state.process.adopted)
  }

  /** Keeps it running from now on. Resolves when it serves for the first time, rejects when its first start fails. */
  start(): Promise<void> {
    const first = new Promise<void>((resolve, reject) => this.#waiters.push({ resolve, reject }))
    this.#loop = this.#keepRunning()
    return first
  }

  /**
   * Ends it in order and starts it again at once, as after a change of settings that are read at its start. Resolves when it serves
   * again; rejects with the reason when that start fails, and goes on trying. A child that backs off is started now.
   */
  async restart(): Promise<void> {
    if (this.#stopping.signal.aborted || this.#released) throw this.#stoppedError()
    const again = Promise.withResolvers<void>()
    again.promise.catch(() => undefined)
    const { status } = this.#state
    if (status === 'waiting') this.#waiters.push(again)
    else this.#plans.push(again)
    this.#backOff.abort()
    if (status === 'running') await this.#beforeStop(this.#stopping.signal)
    const now = this.#state
    if (now.status === 'starting' || now.status === 'running') await this.#end(now.process, this.#stopping.signal)
    return again.promise
  }

  /** Makes it read its config files again; false when it isn't running, or can't. */
  reload(): boolean {
    const { reloadSignal } = this.#spec
    if (!reloadSignal || (this.#state.status !== 'running' && this.#state.status !== 'starting')) return false
    this.#state.process.signal(reloadSignal)
    return true
  }

  /** What an orderly stop does while it still serves, such as a checkpoint: done ahead, it takes nothing from its clients. */
  async prepareStop(hurry: AbortSignal): Promise<void> {
    if (this.#state.status === 'running') await this.#beforeStop(hurry)
  }

  /** Ends it for good. Aborting `hurry` cuts every wait short. Calling it twice, before the start or after `release` is harmless. */
  async stop(hurry: AbortSignal): Promise<void> {
    if (this.#released) return
    const state = this.#state
    if (!this.#stopping.signal.aborted) {
      if (state.status === 'running' && !hurry.aborted) await this.#beforeStop(hurry)
      this.#stopping.abort()
    }
    const now = this.#state // may have changed while waiting
    if (now.status === 'starting' || now.status === 'running') await this.#end(now.process, hurry)
    await this.#loop
    // Stopped before its start: what runs from before is ours to end all the same.
    const survivor = this.#takeSurvivor()
    if (survivor) await this.#end(survivor, hurry)
    this.#state = { status: 'stopped' }
    this.#opened?.[Symbol.dispose]()
  }

  /** Tells it to finish by itself, and waits until it has, or until `enough`; it is not started again. `stop` has to follow. */
  async leave(signal: NodeJS.Signals, enough: AbortSignal): Promise<void> {
    const state = this.#state
    this.#stopping.abort()
    if (state.status !== 'running' || state.process.pid === undefined) return
    writeRecord(this.#surroundings.runDirectory, this.#spec.name, state.process.pid, { fingerprint: this.#fingerprint(), leaving: true })
    state.process.signal(signal)
    await Promise.race([state.process.exited, aborted(enough)])
  }

  /** Lets it run on without us, for the supervisor that comes after this one. */
  release(): void {
    this.#released = true
    this.#opened?.[Symbol.dispose]()
  }

  async #keepRunning(): Promise<void> {
    const { signal } = this.#stopping
    for (let round = 0; !signal.aborted; round++) {
      if (round > 0) this.#restarts++
      this.#state = { status: 'waiting' }
      const startedAt = this.#now()
      let problem: BeyondError
      let hopeless = false
      try {
        const process = (await this.#adopt()) ?? (await this.#spawn())
        if (!process) break
        const exit = await this.#watch(process)
        if (this.#released) return
        if (signal.aborted) break
        hopeless = this.#spec.isHopeless?.(exit) ?? false
        problem = this.#failure(exit, process.lastLines)
      } catch (error) {
        if (signal.aborted) break
        problem = error instanceof BeyondError ? error : new BeyondError('INTERNAL', String(error), { cause: error })
      }
      if (this.#plans.length === 0) await this.#waitBeforeRestart(problem, startedAt, hopeless)
      this.#waiters.push(...this.#plans.splice(0))
    }
    this.#tell((waiter) => waiter.reject(this.#stoppedError()))
    for (const plan of this.#plans.splice(0)) plan.reject(this.#stoppedError())
  }

  async #waitBeforeRestart(problem: BeyondError, startedAt: number, hopeless: boolean): Promise<void> {
    const decision = afterExit(this.#history, this.#now() - startedAt, hopeless)
    this.#history = decision.history
    const fields = { attempt: decision.history.attempt, againInMs: decision.delayMs, end: problem.facts['end'] }
    this.#logger.error({ err: { code: problem.code, message: problem.message }, ...fields }, 'ended')
    this.#backOff = new AbortController()
    this.#state = { status: 'backing-off', untilMs: this.#now() + decision.delayMs }
    this.#tell((waiter) => waiter.reject(problem))
    const woken = AbortSignal.any([this.#stopping.signal, this.#backOff.signal])
    await sleep(decision.delayMs, undefined, { signal: woken }).catch(() => undefined)
  }

  /** The one that runs already, when it was started as we would start it; another one is ended in order. */
  async #adopt(): Promise<RunningProcess | undefined> {
    const isOurs = this.#survivor?.fingerprint === this.#fingerprint()
    const process = this.#takeSurvivor()
    if (!process) return undefined
    const { reloadSignal } = this.#spec
    if (isOurs) {
      this.#logger.info({ childPid: process.pid }, 'adopted')
      if (reloadSignal) process.signal(reloadSignal) // its files may say something new
      return process
    }
    this.#logger.warn({ childPid: process.pid }, 'runs with other settings than it should: restarting it')
    this.#state = { status: 'starting', process }
    await this.#beforeStop(this.#stopping.signal)
    await this.#end(process, this.#stopping.signal)
    return undefined
  }

  #takeSurvivor(): RunningProcess | undefined {
    const survivor = this.#survivor
    this.#survivor = undefined
    return survivor && new AdoptedProcess(this.#spec.name, survivor, this.#output, this.#surroundings.runDirectory)
  }

  async #spawn(): Promise<RunningProcess | undefined> {
    const { signal } = this.#stopping
    await this.#spec.prepare?.(signal)
    if (signal.aborted || this.#released) return undefined
    const process = new ChildProcess(this.#spec, this.#surroundings.runDirectory, { output: this.#output, fingerprint: this.#fingerprint() })
    if (this.#spec.oomScoreAdj !== undefined && process.pid !== undefined) adjustOomScore(process.pid, this.#spec.oomScoreAdj)
    return process
  }

  /** Opened with the first use: two readers would take lines from each other. */
  get #output(): ChildOutput {
    const { runDirectory } = this.#surroundings
    return (this.#opened ??= new ChildOutput(outputFile(runDirectory, this.#spec.name), (line) => this.#onLine(line)))
  }

  #onLine(line: string): void {
    if (this.#spec.takeLine?.(line)) return
    const { level, text, fields } = this.#spec.interpret(line)
    this.#logger[level](fields ?? {}, text)
  }

  /** From the start of the process, or its adoption, to its end. */
  async #watch(process: RunningProcess): Promise<Exit> {
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
      this.#tell((waiter) => waiter.resolve())
      void this.#watchLiveness(process, over.signal)
    } else if (!this.#stopping.signal.aborted && !this.#released) {
      if (patience[0]?.aborted) this.#logger.error({ withinMs: readyWithinMs }, 'not ready in time')
      process.killGroup()
    }
    const exit = await process.exited
    over.abort()
    return exit
  }

  async #watchLiveness(process: RunningProcess, over: AbortSignal): Promise<void> {
    const { liveness } = this.#spec
    if (!liveness) return
    const signal = AbortSignal.any([over, this.#stopping.signal])
    for (let unanswered = 0; await passes(liveness.everyMs, signal); ) {
      unanswered = await liveness.ask().then(() => 0, () => unanswered + 1)
      if (signal.aborted || this.#released || unanswered < UNANSWERED_MOST) continue
      this.#logger.error({ childPid: process.pid, unanswered }, 'does not answer')
      unanswered = 0
      if (liveness.otherwise === 'restart') await this.#end(process, this.#stopping.signal)
    }
  }

  async #beforeStop(hurry: AbortSignal): Promise<void> {
    try {
      await this.#spec.beforeStop?.(hurry)
    } catch (error) {
      this.#logger.warn({ err: error }, 'could not prepare its stop')
    }
  }

  async #end(process: RunningProcess, hurry: AbortSignal): Promise<void> {
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

  #tell(say: (waiter: Waiter) => void): void {
    for (const waiter of this.#waiters.splice(0)) say(waiter)
  }

  /** Of all that it can't be told while it runs. The search path is that of whoever started us, and no setting of its. */
  #fingerprint(): string {
    const { program, args, environment, account, settings } = this.#spec
    const { PATH: _path, TMPDIR: _temporary, ...told } = environment
    return createHash('sha256').update(JSON.stringify([program, args, told, account?.uid, settings])).digest('hex').slice(0, 16)
  }

  /** The end of the child as an error, with its last words. */
  #failure(exit: Exit, lastLines: readonly string[]): BeyondError {
    const { name, interpret } = this.#spec
    const lines = lastLines.map((line) => interpret(line))
    const why = lines.slice(-3).map((line) => line.text).join(' / ')
    const end = classifyExit(exit, lines)
    const facts = { exitCode: exit.code, signal: exit.signal, end }
    if (end === 'disk-full') return new BeyondError('DISK_FULL', `The disk is full, so ${name} ended: make room and start again.`, { facts })
    if (exit.failure) return new BeyondError('CHILD_FAILED', `${name} could not be started: ${exit.failure.message}.`, { cause: exit.failure, facts })
    return new BeyondError('CHILD_FAILED', `${name} ended with ${describeExit(exit)}${why === '' ? '' : `: ${why}`}`, { facts })
  }

  #stoppedError(): BeyondError {
    return new BeyondError('SHUTDOWN', `${this.#spec.name} was stopped before it was ready.`)
  }

  #now(): number {
    return this.#surroundings.now?.() ?? Date.now()
  }
}

async function endsWithin(process: RunningProcess, milliseconds: number, hurry?: AbortSignal): Promise<boolean> {
  const over = new AbortController()
  const signal = hurry ? AbortSignal.any([over.signal, hurry]) : over.signal
  const timeout = sleep(milliseconds, false, { signal }).catch(() => false)
  const ended = await Promise.race([process.exited.then(() => true), timeout])
  over.abort()
  return ended
}

/** Source: proc_pid_oom_score_adj(5). */
function adjustOomScore(pid: number, value: number): void {
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, String(value))
  } catch {
    // not allowed, as in most containers, or the child is gone already
  }
}

/** False when it was aborted first. */
const passes = (milliseconds: number, signal: AbortSignal): Promise<boolean> => sleep(milliseconds, true, { signal, ref: false }).catch(() => false)

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => (signal.aborted ? resolve() : signal.addEventListener('abort', () => resolve(), { once: true })))

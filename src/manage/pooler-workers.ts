/**
 * The PgBouncer workers of a box. They share one port (so_reuseport: the kernel spreads new connections over them) and know each other
 * as peers, so that a cancel request reaches its query whichever worker it lands on. The first one always runs; others come and go with
 * the load. One that goes takes no new clients and ends when its last one has left.
 * Source: https://www.pgbouncer.org/config.html (so_reuseport, peer_id, section [peers]).
 */
import { chownSync, existsSync, mkdirSync, readdirSync } from 'node:fs'
import type { Logger } from 'pino'
import { BeyondError } from '../errors.ts'
import type { Owner } from './atomic-file.ts'
import { readRecord } from './child-process.ts'
import { endProcess, type Leftovers } from './leftovers.ts'
import { type LoadHistory, noLoad, type WorkerLoad, decideWorkers } from './pooler-load.ts'
import { cpuSeconds, isAlive, type ProcessIdentity, signalProcess } from './process-identity.ts'
import { type ChildSpec, type ChildState, SupervisedChild } from './supervised-child.ts'

export type PoolerWorkersOptions = {
  /** How worker `number`, counted from 1, is run. */
  readonly specOf: (number: number) => ChildSpec
  /** The folder of its Unix socket. */
  readonly socketDirectoryOf: (number: number) => string
  readonly socketOwner: Owner | undefined
  /** Writes its config file, from what all workers share. */
  readonly writeConfig: (number: number) => void
  /** At most so many run, those that go not counted. */
  readonly most: number
  /** Clients that one worker may have. */
  readonly clientsEach: number
  readonly leftovers: Leftovers
  readonly runDirectory: string
  readonly logger: Logger
  readonly sampleMs?: number
  /** Clients that are still there after so long lose their connection, between two transactions. */
  readonly leaveMs?: number
}

const SAMPLE_MS = 5_000
const LEAVE_MS = 3_600_000

export class PoolerWorkers {
  readonly #options: PoolerWorkersOptions
  /** By number, the one that always runs first. */
  readonly #workers = new Map<number, SupervisedChild>()
  readonly #leaving = new Map<number, SupervisedChild>()
  /** Told to go by an earlier supervisor. */
  readonly #leftLeaving: ProcessIdentity[] = []
  readonly #enough = new AbortController()
  readonly #cpu = new Map<number, { pid: number; seconds: number; at: number }>()
  #history: LoadHistory = noLoad
  #timer: NodeJS.Timeout | undefined
  #released = false

  constructor(options: PoolerWorkersOptions) {
    this.#options = options
    for (let number = 1; number <= options.most || options.leftovers.names.includes(workerName(number)); number++) {
      const survivor = options.leftovers.take(workerName(number))
      if (survivor?.leaving) this.#leftLeaving.push(survivor)
      else if (survivor && number <= options.most) this.#supervise(number, survivor)
      else if (survivor) {
        signalProcess(survivor, 'SIGTERM') // there are to be fewer
        this.#leftLeaving.push(survivor)
      }
    }
    if (!this.#workers.has(1)) this.#supervise(1)
  }

  /** Of the first worker. */
  get state(): ChildState {
    return this.#first.state
  }

  /** They were there before this supervisor. */
  get ranBefore(): boolean {
    return this.#first.ranBefore
  }

  /** All that are to run, the first one first. */
  get children(): readonly SupervisedChild[] {
    return [...this.#workers.entries()].sort(([a], [b]) => a - b).map(([, child]) => child)
  }

  /** Folders of the Unix sockets of those that serve: each leads to the console of that very worker. */
  get sockets(): readonly string[] {
    const serving = [...this.#workers].filter(([, child]) => child.state.status === 'running')
    return serving.map(([number]) => this.#options.socketDirectoryOf(number))
  }

  /** Resolves when all that are to run serve. */
  async start(): Promise<void> {
    for (const number of this.#workers.keys()) this.#prepare(number)
    await Promise.all(this.children.map((child) => child.start()))
    this.#timer = setInterval(() => this.#sample(), this.#options.sampleMs ?? SAMPLE_MS)
  }

  /** One after the other, so that there is always one to connect to. */
  async restart(): Promise<void> {
    for (const child of this.children) await child.restart()
  }

  /** Makes them read the config files again, certificates included. */
  reload(): boolean {
    for (const number of this.#workers.keys()) this.#options.writeConfig(number)
    return this.children.map((child) => child.reload()).some(Boolean)
  }

  async stop(hurry: AbortSignal): Promise<void> {
    clearInterval(this.#timer)
    if (this.#released) return
    this.#enough.abort()
    const all = [...this.#workers.values(), ...this.#leaving.values()]
    const left = this.#leftLeaving.filter(isAlive).map((process) => endProcess(process, this.#first.stopSteps, hurry).catch(() => undefined))
    await Promise.all([...all.map((child) => child.stop(hurry)), ...left])
  }

  /** Lets all of them run on, for the supervisor that comes after this one. */
  release(): void {
    clearInterval(this.#timer)
    this.#released = true
    for (const child of [...this.#workers.values(), ...this.#leaving.values()]) child.release()
  }

  /** One worker more. Rejects when it doesn't start; then there is none more. */
  async add(): Promise<void> {
    const { most, logger } = this.#options
    const number = Array.from({ length: most }, (_value, at) => at + 1).find((at) => !this.#workers.has(at) && !this.#isUsed(at))
    if (number === undefined) return
    const child = this.#supervise(number)
    this.#prepare(number)
    try {
      await child.start()
      logger.info({ worker: number, workers: this.#workers.size }, 'added a worker of PgBouncer')
    } catch (error) {
      this.#workers.delete(number)
      await child.stop(this.#enough.signal)
      throw error
    }
  }

  /** One worker less, the youngest: resolves when its last client has gone, its time is over, or the box stops. */
  async shed(): Promise<void> {
    const number = Math.max(...this.#workers.keys())
    const child = this.#workers.get(number)
    if (number === 1 || !child) return
    this.#workers.delete(number)
    this.#leaving.set(number, child)
    this.#options.logger.info({ worker: number, workers: this.#workers.size }, 'a worker of PgBouncer leaves when its clients have gone')
    await child.leave('SIGTERM', AbortSignal.any([this.#enough.signal, AbortSignal.timeout(this.#options.leaveMs ?? LEAVE_MS)]))
    if (this.#enough.signal.aborted) return // `stop` has it
    this.#leaving.delete(number)
    await child.stop(this.#enough.signal)
  }

  get #first(): SupervisedChild {
    const child = this.#workers.get(1)
    if (!child) throw new BeyondError('INTERNAL', 'The first worker of PgBouncer is missing.')
    return child
  }

  #isUsed(number: number): boolean {
    const record = readRecord(this.#options.runDirectory, workerName(number))
    return this.#leaving.has(number) || (record !== undefined && isAlive(record))
  }

  #supervise(number: number, survivor?: ReturnType<Leftovers['take']>): SupervisedChild {
    const { runDirectory, logger, specOf } = this.#options
    const child = new SupervisedChild(specOf(number), { runDirectory, logger, survivor })
    this.#workers.set(number, child)
    return child
  }

  #prepare(number: number): void {
    const { socketDirectoryOf, socketOwner, writeConfig } = this.#options
    const directory = socketDirectoryOf(number)
    if (!existsSync(directory)) mkdirSync(directory, { mode: 0o700 })
    if (socketOwner) chownSync(directory, socketOwner.uid, socketOwner.gid) // a start may have been killed after the line above
    writeConfig(number)
  }

  #sample(): void {
    const { most, logger } = this.#options
    if (most === 1) return
    const decision = decideWorkers(this.#history, this.#loads(), most)
    this.#history = decision.history
    const act = decision.action === 'add' ? this.add() : decision.action === 'shed' ? this.shed() : undefined
    act?.catch((error: Error) => logger.error({ err: { message: error.message } }, 'could not change the number of workers of PgBouncer'))
  }

  #loads(): readonly WorkerLoad[] {
    const at = performance.now() / 1000
    return [...this.#workers].flatMap(([number, child]) => {
      if (child.state.status !== 'running') return []
      const pid = child.state.process.pid ?? 0
      const seconds = cpuSeconds(pid) ?? 0
      const before = this.#cpu.get(number)
      this.#cpu.set(number, { pid, seconds, at })
      const cpu = before?.pid === pid ? (seconds - before.seconds) / Math.max(0.001, at - before.at) : 0
      return [{ cpu, clients: openFiles(pid) / this.#options.clientsEach }]
    })
  }
}

export const workerName = (number: number): string => (number === 1 ? 'pgbouncer' : `pgbouncer-${number}`)

/** Nearly all of them are clients: they are many, and connections to Postgres are few. */
function openFiles(pid: number): number {
  try {
    return readdirSync(`/proc/${pid}/fd`).length
  } catch {
    return 0
  }
}

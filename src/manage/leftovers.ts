/**
 * What an earlier supervisor left running, after it was killed or upgraded. Runs under the lock, so none of it has a living supervisor.
 * A child is known by its record or, when we were killed before that was written, by the pipe that it prints into. Who wants to keep one
 * takes it; the rest is ended.
 */
import { existsSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs'
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { BeyondError } from '../errors.ts'
import { outputFile } from './child-output.ts'
import { type ProcessRecord, readRecord, removeRecord } from './child-process.ts'
import type { Layout } from './layout.ts'
import { identify, isAlive, postgresProcessesIn, type ProcessIdentity, signalProcess } from './process-identity.ts'

type Step = { readonly signal: NodeJS.Signals; readonly withinMs: number }

const STEPS: Readonly<Record<string, readonly Step[]>> = {
  pgbouncer: [
    { signal: 'SIGQUIT', withinMs: 2_000 },
    { signal: 'SIGKILL', withinMs: 5_000 },
  ],
  postgres: [
    { signal: 'SIGINT', withinMs: 60_000 },
    { signal: 'SIGQUIT', withinMs: 10_000 },
    { signal: 'SIGKILL', withinMs: 5_000 },
  ],
}
/** One-off programs, such as initdb and base backups: their work is begun anew. */
const ONE_OFF: readonly Step[] = [{ signal: 'SIGKILL', withinMs: 5_000 }]
const SERVICE: readonly Step[] = [
  { signal: 'SIGTERM', withinMs: 10_000 },
  { signal: 'SIGKILL', withinMs: 5_000 },
]

export class Leftovers {
  readonly #layout: Layout
  readonly #logger: Logger
  readonly #running = new Map<string, ProcessRecord>()

  /** Looks; ends what can't be kept. */
  static async find(layout: Layout, logger: Logger, signal: AbortSignal): Promise<Leftovers> {
    const leftovers = new Leftovers(layout, logger)
    await leftovers.#look(signal)
    return leftovers
  }

  private constructor(layout: Layout, logger: Logger) {
    this.#layout = layout
    this.#logger = logger
  }

  /** Names of those that nobody has taken. */
  get names(): readonly string[] {
    return [...this.#running.keys()]
  }

  /** Hands the child over to who supervises it from now on. */
  take(name: string): ProcessRecord | undefined {
    const record = this.#running.get(name)
    this.#running.delete(name)
    return record && isAlive(record) ? record : undefined
  }

  /** Ends those that nobody has taken; Postgres comes last. */
  async endRest(signal: AbortSignal): Promise<void> {
    for (const name of [...this.#running.keys()].sort((a, b) => Number(a === 'postgres') - Number(b === 'postgres'))) {
      const record = this.take(name)
      if (record) await this.#end(name, record, stepsFor(name), signal)
      removeRecord(this.#layout.run, name)
    }
  }

  async #look(signal: AbortSignal): Promise<void> {
    const { run, sockets, postgres } = this.#layout
    const files = readdirSync(run)
    const recorded = files.filter((file) => file.endsWith('.json')).map((file) => basename(file, '.json'))
    const printing = files.filter((file) => file.endsWith('.out')).map((file) => basename(file, '.out'))
    for (const name of recorded.filter((name) => name !== 'supervisor')) {
      const record = readRecord(run, name)
      if (record && isAlive(record) && printing.includes(name)) {
        this.#running.set(name, record)
        continue
      }
      if (record && isAlive(record)) await this.#end(name, record, ONE_OFF, signal)
      removeRecord(run, name)
    }
    for (const name of printing.filter((name) => !this.#running.has(name))) {
      const stray = name === 'postgres' ? unrecordedPostmaster(postgres) : printerInto(outputFile(run, name))
      if (stray) this.#running.set(name, stray) // without a fingerprint: it will not be kept as it is
    }
    // Sockets and their lock files name processes that are gone; a number that was given out again would block the next start.
    if (this.#running.size === 0) for (const name of readdirSync(sockets)) rmSync(join(sockets, name), { recursive: true, force: true })
  }

  async #end(name: string, record: ProcessIdentity, steps: readonly Step[], signal: AbortSignal): Promise<void> {
    this.#logger.warn({ child: name, childPid: record.pid }, 'stopping what an earlier start left behind')
    await endProcess(record, steps, signal)
  }
}

const stepsFor = (name: string): readonly Step[] => STEPS[name.replace(/-\d+$/, '')] ?? SERVICE

/** The leader of a process group that prints into this pipe: all that we start leads one. */
function printerInto(pipe: string): ProcessIdentity | undefined {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      if (readlinkSync(`/proc/${pid}/fd/1`) !== pipe) continue
      const group = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ').at(-1)?.split(' ')[2]
      if (group === pid) return identify(Number(pid))
    } catch {
      // gone meanwhile, or not ours to look at
    }
  }
  return undefined
}

/** Before each start of Postgres, when none can be running: removes what would keep it from starting. */
export async function clearTheWay(layout: Layout, port: number, logger: Logger, signal: AbortSignal): Promise<void> {
  await endOrphans(layout.postgres, logger, signal)
  const lockFiles = [join(layout.postgres, 'postmaster.pid'), join(layout.sockets, `.s.PGSQL.${port}.lock`)]
  for (const path of lockFiles) removeStaleLock(path)
}

/** Backends whose postmaster was killed hold the shared memory, which keeps a new postmaster from starting. */
async function endOrphans(dataDirectory: string, logger: Logger, signal: AbortSignal): Promise<void> {
  const orphans = postgresProcessesIn(dataDirectory)
  if (orphans.length === 0) return
  logger.warn({ count: orphans.length }, 'stopping Postgres processes that lost their postmaster')
  for (const orphan of orphans) signalProcess(orphan, 'SIGQUIT')
  for (const orphan of orphans) await endProcess(orphan, [{ signal: 'SIGQUIT', withinMs: 2_000 }, { signal: 'SIGKILL', withinMs: 5_000 }], signal)
}

/** A postmaster without a record, perhaps started by hand: the one that postmaster.pid names. */
function unrecordedPostmaster(dataDirectory: string): ProcessIdentity | undefined {
  const pid = lockFilePid(join(dataDirectory, 'postmaster.pid'))
  return postgresProcessesIn(dataDirectory).find((process) => process.pid === pid)
}

/**
 * Postgres removes a stale lock file itself, unless the number in it belongs to another process of its account by now,
 * or to a zombie that nobody reaps. Then, and only then, it is removed here: no Postgres of this data directory has it.
 */
function removeStaleLock(path: string): void {
  const pid = lockFilePid(path)
  if (pid !== undefined && existsSync(`/proc/${pid}`)) rmSync(path, { force: true })
}

function lockFilePid(path: string): number | undefined {
  const pid = existsSync(path) ? Number.parseInt(readFileSync(path, 'utf8'), 10) : Number.NaN
  return Number.isSafeInteger(pid) && pid > 0 ? pid : undefined
}

export async function endProcess(process: ProcessIdentity, steps: readonly Step[], signal: AbortSignal): Promise<void> {
  for (const step of steps) {
    signalProcess(process, step.signal)
    for (const deadline = Date.now() + step.withinMs; Date.now() < deadline; await sleep(20, undefined, { signal })) {
      if (!isAlive(process)) return
    }
  }
  throw new BeyondError('CHILD_FAILED', `Process ${process.pid} of an earlier start does not end: end it by hand and start again.`, {
    facts: { pid: process.pid },
  })
}

/**
 * Tunes a running Postgres anew when memory, processors or settings change.
 *
 *   read → write what a reload applies, reload → check the rest, checkpoint → PAUSE → write all, restart → RESUME
 *
 * The file holds what is proved to start, or what is being tried. What does not start is taken back, and not tried again before the
 * machine changes once more. Queries through the pooler wait from PAUSE to RESUME; none fails. When this process is killed in
 * between, the next one resumes as it takes the pooler over.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from 'pg'
import type { Logger } from 'pino'
import { BeyondError } from '../errors.ts'
import { type DatabaseAddress, withDatabase } from './database-client.ts'
import type { Settings } from './postgres-config.ts'
import { afterFailure, differences, observe, quiet, reloadableOnly, type SettingDifference, type Watch } from './retune-plan.ts'
import { planTuning, settingsOf, type Tuning, type TuningInput } from './tuning.ts'

export type RetuneOptions = {
  /** What the machine and the settings say now. */
  readonly read: () => TuningInput | Promise<TuningInput>
  /** What Postgres runs with. */
  readonly applied: TuningInput
  /** Writes 01-tuning.conf, whole or not at all. */
  readonly write: (settings: Settings) => void
  /** Rejects when Postgres would not take these settings; asks without starting it. */
  readonly check: (settings: Settings) => Promise<void>
  /** Resolves when Postgres serves again; rejects when it does not start. */
  readonly restart: () => Promise<void>
  readonly pooler: {
    /** By somebody else. */
    readonly isPaused: () => Promise<boolean>
    readonly pause: (withinMs: number, signal: AbortSignal) => Promise<boolean>
    readonly resume: () => Promise<void>
    /** While paused, with another `maxConnections`. */
    readonly resize: () => Promise<void>
  }
  /** As a superuser, past the pooler. */
  readonly database: DatabaseAddress
  readonly logger: Logger
  readonly pollMs?: number
  /** What is read must stay the same for so long. */
  readonly settleMs?: number
  /** How long a transaction may hold up a restart. */
  readonly pauseMs?: number
}

export type RetuneOutcome = 'unchanged' | 'reloaded' | 'restarted' | 'postponed' | 'refused' | 'rolled-back'

export type RetuneReport = {
  readonly outcome: RetuneOutcome
  readonly before: TuningInput
  readonly after: TuningInput
  readonly changed: readonly SettingDifference[]
  /** Why it was postponed, refused or rolled back. */
  readonly reason?: string
  /** From PAUSE to RESUME, milliseconds. */
  readonly stallMs?: number
}

export type HugePages = {
  /** Whether the memory that Postgres shares lies in huge pages. */
  readonly status: 'on' | 'off' | 'unknown'
  /** How many of them it needs; -1 where the kernel has none. */
  readonly pages: number
}

type Report = (outcome: RetuneOutcome, more?: { readonly reason?: string; readonly stallMs?: number }) => RetuneReport

const POLL_MS = 10_000
const SETTLE_MS = 10_000
/** Well below the time after which PgBouncer gives up on a query that waits (query_wait_timeout). */
const PAUSE_MS = 5_000
const QUERY_MS = 5_000
const CHECKPOINT_MS = 120_000
const RELOAD_MS = 10_000
const LOOK_AGAIN_MS = 20
const RESUME_MS = 20_000
const RESUME_AGAIN_MS = 100

export class Retuner {
  readonly #options: RetuneOptions
  readonly #stopping = new AbortController()
  /** The machine for which Postgres was tuned in whole. */
  #applied: TuningInput
  /** What the file holds, and Postgres uses. */
  #inForce: Settings
  /** Some of what is wanted is in force, the rest waits for a restart. */
  #isPartial = false
  #isTakenOver = false
  /** What did not start, and why. */
  #rejected: { readonly settings: string; readonly reason: string } | undefined
  #watch: Watch = quiet
  #watching: Promise<void> | undefined
  #running: Promise<RetuneReport> | undefined
  #last: RetuneReport | undefined

  constructor(options: RetuneOptions) {
    this.#options = options
    this.#applied = options.applied
    this.#inForce = settingsOf(planTuning(options.applied))
  }

  /** As Postgres was started with, by our file; while it is paused for a restart, as it will be. */
  get maxConnections(): number {
    return Number(this.#inForce['max_connections'])
  }

  /** The last retune that did something, or tried to. */
  get last(): RetuneReport | undefined {
    return this.#last
  }

  /** What a retune would do now. */
  async preview(): Promise<Pick<RetuneReport, 'before' | 'after' | 'changed'>> {
    const after = await this.#options.read()
    return { before: this.#applied, after, changed: differences(this.#inForce, planTuning(after)) }
  }

  /** Asked of Postgres itself, which knows what all that it shares adds up to. */
  async hugePages(): Promise<HugePages> {
    const { rows } = await withDatabase(this.#options.database, QUERY_MS, (client) =>
      client.query<HugePages>("SELECT current_setting('huge_pages_status') AS status, current_setting('shared_memory_size_in_huge_pages')::int AS pages"),
    )
    return rows[0]
  }

  /** Looks at the machine from now on, until it is disposed of. */
  start(): void {
    this.#watching ??= this.#keepWatching()
  }

  /** Retunes at once. One that runs already is waited for first, and those who ask meanwhile share the next one. */
  async retune(): Promise<RetuneReport> {
    this.#stopping.signal.throwIfAborted()
    const previous = this.#running
    if (previous) {
      await previous.catch(() => undefined)
      if (this.#running !== undefined && this.#running !== previous) return this.#running
    }
    const run = this.#retune().finally(() => {
      if (this.#running === run) this.#running = undefined
    })
    this.#running = run
    return run
  }

  /** Ends waiting; queries that are held back go on. Twice is harmless. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort(new BeyondError('SHUTDOWN', 'The box stops, so it is not retuned.'))
    await this.#watching
    await this.#running?.catch(() => undefined)
  }

  async #keepWatching(): Promise<void> {
    const { signal } = this.#stopping
    const { logger, pollMs = POLL_MS, settleMs = SETTLE_MS } = this.#options
    let problem: string | undefined
    while (!signal.aborted) {
      try {
        if (!this.#isTakenOver) await this.#takeOver()
        const read = await this.#options.read()
        problem = undefined
        const seen = observe(this.#watch, this.#isPartial ? undefined : this.#applied, read, Date.now(), settleMs)
        this.#watch = seen.watch
        if (seen.retune) {
          const { outcome } = await this.retune()
          if (['postponed', 'refused', 'rolled-back'].includes(outcome)) this.#watch = afterFailure(this.#watch, Date.now())
        }
      } catch (error) {
        if (signal.aborted) break
        const text = (error as Error).message
        if (text !== problem) logger.error({ err: error }, 'could not retune')
        problem = text
        this.#watch = afterFailure(this.#watch, Date.now())
      }
      await sleep(pollMs, undefined, { signal }).catch(() => undefined)
    }
  }

  /** Postgres may have been taken over from an earlier supervisor, and run with what was in the file at its own start. */
  async #takeOver(): Promise<void> {
    const names = Object.keys(this.#inForce)
    const { rows } = await withDatabase(this.#options.database, QUERY_MS, (client) =>
      client.query<{ name: string; value: string }>(
        'SELECT name, current_setting(name) AS value FROM pg_settings WHERE pending_restart AND name = ANY($1)',
        [names],
      ),
    )
    this.#inForce = { ...this.#inForce, ...Object.fromEntries(rows.map(({ name, value }) => [name, value])) }
    this.#isPartial = rows.length > 0
    this.#isTakenOver = true
  }

  async #retune(): Promise<RetuneReport> {
    if (!this.#isTakenOver) await this.#takeOver()
    const before = this.#applied
    const after = await this.#options.read()
    const wanted = planTuning(after)
    const changed = differences(this.#inForce, wanted)
    const report: Report = (outcome, more = {}) => ({ outcome, before, after, changed, ...more })
    const settings = settingsOf(wanted)
    if (this.#rejected?.settings === JSON.stringify(settings)) return report('refused', { reason: this.#rejected.reason })
    if (changed.length > 0) {
      try {
        await this.#options.check(settings)
      } catch (error) {
        return this.#tell(report('refused', { reason: this.#reject(settings, error) }))
      }
    }
    await this.#reload(reloadableOnly(this.#inForce, wanted))
    const restarts = changed.filter(({ restart }) => restart).map(({ name }) => name)
    this.#isPartial = restarts.length > 0
    if (restarts.length > 0 && (await withDatabase(this.#options.database, QUERY_MS, (client) => areOurs(client, restarts)))) {
      const obstacle = await this.#obstacle()
      const done = obstacle === undefined ? await this.#restartWith(wanted, report) : report('postponed', { reason: obstacle })
      if (done.outcome === 'restarted') this.#complete(after, settings)
      return this.#tell(done)
    }
    await this.#reload(settings) // what waits for a restart is overridden in the user's layer: it is only noted
    this.#complete(after, settings)
    return changed.length === 0 ? report('unchanged') : this.#tell(report('reloaded'))
  }

  #complete(applied: TuningInput, settings: Settings): void {
    this.#applied = applied
    this.#inForce = settings
    this.#isPartial = false
  }

  /** All that needs no restart, at once. */
  async #reload(settings: Settings): Promise<void> {
    if (JSON.stringify(settings) === JSON.stringify(this.#inForce)) return
    const former = this.#inForce
    this.#options.write(settings)
    try {
      await withDatabase(this.#options.database, QUERY_MS, (client) => reloadConfig(client))
    } catch (error) {
      this.#options.write(former)
      throw error
    }
    this.#inForce = settings
  }

  /** What a restart would break, or wait for: looked at before anybody is held up. */
  async #obstacle(): Promise<string | undefined> {
    const { database, pooler, pauseMs = PAUSE_MS } = this.#options
    if (await pooler.isPaused()) return 'somebody has paused PgBouncer'
    const { rows } = await withDatabase(database, QUERY_MS, (client) =>
      client.query<{ transactions: number; longest: number; backups: number }>(OBSTACLES, [pauseMs]),
    )
    const [{ transactions, longest, backups }] = rows
    if (backups > 0) return 'a base backup is being taken'
    if (transactions > 0) return `${transactions === 1 ? 'a transaction has' : `${transactions} transactions have`} been running for up to ${longest} s`
    return undefined
  }

  async #restartWith(wanted: Tuning, report: Report): Promise<RetuneReport> {
    const { pooler, database, write, restart, logger, pauseMs = PAUSE_MS } = this.#options
    const { signal } = this.#stopping
    const former = this.#inForce
    const settings = settingsOf(wanted)
    // The shutdown's own checkpoint, for which everybody waits, then has little left to write.
    await unlessAborted(signal, withDatabase(database, CHECKPOINT_MS, (client) => client.query('CHECKPOINT')))
    const pausedAt = performance.now()
    try {
      if (!(await pooler.pause(pauseMs, signal))) {
        signal.throwIfAborted()
        return report('postponed', { reason: `transactions did not end within ${pauseMs} ms`, stallMs: since(pausedAt) })
      }
      write(settings)
      try {
        await unlessAborted(signal, restart())
      } catch (error) {
        signal.throwIfAborted()
        const reason = this.#reject(settings, error)
        logger.error({ err: error }, 'Postgres does not start with the new tuning: taking it back')
        write(former)
        await unlessAborted(signal, restart())
        return report('rolled-back', { reason, stallMs: since(pausedAt) })
      }
      this.#inForce = settings
      if (settings['max_connections'] !== former['max_connections']) await pooler.resize()
    } finally {
      await letGo(pooler)
    }
    return report('restarted', { stallMs: since(pausedAt) })
  }

  #reject(settings: Settings, error: unknown): string {
    const reason = (error as Error).message
    this.#rejected = { settings: JSON.stringify(settings), reason }
    return reason
  }

  #tell(report: RetuneReport): RetuneReport {
    this.#last = report
    const { outcome, changed, reason, stallMs } = report
    const level = outcome === 'rolled-back' || outcome === 'refused' ? 'error' : outcome === 'postponed' ? 'warn' : 'info'
    const names = Object.fromEntries(changed.map(({ name, from, to }) => [name, `${from} → ${to}`]))
    this.#options.logger[level]({ ...(reason === undefined ? {} : { reason }), ...(stallMs === undefined ? {} : { stallMs }), changed: names }, `retuned: ${outcome}`)
    return report
  }
}

/** A pooler that is being started again holds nothing back, and soon says so. */
async function letGo(pooler: { readonly resume: () => Promise<void> }): Promise<void> {
  for (const deadline = Date.now() + RESUME_MS; ; await sleep(RESUME_AGAIN_MS)) {
    try {
      return await pooler.resume()
    } catch (error) {
      if (Date.now() > deadline) throw error
    }
  }
}

/** Transactions of clients that have run for longer than a pause may take, and base backups. */
const OBSTACLES = `
  SELECT count(*)::int AS transactions, coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::int AS longest,
    (SELECT count(*)::int FROM pg_stat_progress_basebackup) AS backups
  FROM pg_stat_activity
  WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND xact_start < clock_timestamp() - $1 * interval '1 millisecond'`

/** Whether at least one of these is decided by our file, not by a layer above it. */
async function areOurs(client: Client, names: readonly string[]): Promise<boolean> {
  const found = await client.query(
    "SELECT FROM pg_settings WHERE name = ANY($1) AND (source = 'default' OR sourcefile LIKE '%/01-tuning.conf') LIMIT 1",
    [names],
  )
  return (found.rowCount ?? 0) > 0
}

/** Makes every process read the config files, and waits until the postmaster has. */
async function reloadConfig(client: Client): Promise<void> {
  const wrong = await client.query<{ name: string | null; error: string }>(
    `SELECT name, error FROM pg_file_settings f WHERE error IS NOT NULL AND sourcefile LIKE '%/01-tuning.conf'
     AND NOT EXISTS (SELECT FROM pg_settings s WHERE s.name = f.name AND context = 'postmaster')`,
  )
  const [first] = wrong.rows
  if (first) throw new BeyondError('POSTGRES_REFUSED', `Postgres refuses the new ${first.name ?? 'settings'}: ${first.error}.`)
  const before = await client.query<{ at: string }>('SELECT pg_conf_load_time()::text AS at')
  await client.query('SELECT pg_reload_conf()')
  for (const deadline = Date.now() + RELOAD_MS; ; await sleep(LOOK_AGAIN_MS)) {
    // This session reads the files between two of its commands, and no sooner than the postmaster, which tells it to.
    const now = await client.query<{ at: string }>('SELECT pg_conf_load_time()::text AS at')
    if (now.rows[0].at !== before.rows[0].at) return
    if (Date.now() > deadline) throw new BeyondError('TIMEOUT', 'Postgres does not read its config files.')
  }
}

const since = (start: number): number => Math.round(performance.now() - start)

/** The work goes on, and is ended by its owner; nobody waits for it any more. */
async function unlessAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  work.catch(() => undefined)
  const over = new AbortController()
  const stopped = new Promise<never>((_resolve, reject) => {
    if (signal.aborted) reject(signal.reason as Error)
    signal.addEventListener('abort', () => reject(signal.reason as Error), { signal: over.signal })
  })
  try {
    return await Promise.race([work, stopped])
  } finally {
    over.abort()
  }
}

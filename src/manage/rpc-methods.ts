/** What can be asked of a box over its management socket. docs/rpc.md is the page about them. */
import { setTimeout as sleep } from 'node:timers/promises'
import { BeyondError } from '../errors.ts'
import { type DatabaseAddress, withDatabase } from './database-client.ts'
import { type LogLevel, logFilter, tailLog } from './log-tail.ts'
import { metricsOf } from './metrics.ts'
import { PoolerConsole } from './pooler-console.ts'
import { flag, integer, oneOf, type Params, readParams } from './rpc-protocol.ts'
import type { Method, MethodContext } from './rpc-server.ts'
import { type BoxView, gatherStatus } from './status.ts'
import type { BoxStatus } from './status-facts.ts'
import { TIMELINE } from './status-postgres.ts'

const MAX_LOG_LINES = 10_000
const DEFAULT_LOG_LINES = 100

const MINUTE = 60_000
const LOOK_AGAIN_MS = 50
const AFTER_ANSWER_MS = 20
const RELOADED_MS = 5_000
const DEADLINES = { ask: 10_000, checkpoint: 30 * MINUTE, change: MINUTE, promote: 2 * MINUTE } as const

/** Those that a box has from its first moment on. Others are added with what they need: reload, retune, upgrade, shutdown. */
export function boxMethods(view: BoxView, logFile: string): readonly (readonly [string, Method])[] {
  return [
    ['health', asks(async (signal) => healthOf(await gatherStatus(view, { sizes: false }, signal)))],
    ['status', asks((signal) => gatherStatus(view, { sizes: true }, signal))],
    ['metrics', asks(async (signal) => ({ text: metricsOf(await gatherStatus(view, { sizes: true }, signal)) }))],
    ['checkpoint', method(DEADLINES.checkpoint, {}, (_params, { signal }) => checkpoint(admin(view), signal))],
    ['pause', method(DEADLINES.change, { withinMs: integer(1, 10 * MINUTE, 10_000) }, ({ withinMs }, { signal }) => pause(view, withinMs, signal))],
    ['resume', method(DEADLINES.ask, {}, () => resume(view))],
    ['promote', method(DEADLINES.promote, {}, (_params, { signal }) => promote(admin(view), signal))],
    ['logs', method(undefined, logParameters, (wanted, context) => logs(logFile, wanted, context))],
  ]
}

export const logParameters = {
  lines: integer(0, MAX_LOG_LINES, DEFAULT_LOG_LINES),
  follow: flag,
  child: (value: unknown): string | undefined => {
    if (value === undefined || (typeof value === 'string' && /^[\w-]{1,40}$/.test(value))) return value
    throw new TypeError('must be the name of a child, or box')
  },
  level: oneOf('debug', 'info', 'warn', 'error'),
}

type LogParameters = { readonly lines: number; readonly follow: boolean; readonly child: string | undefined; readonly level: LogLevel | undefined }

export function method<T>(
  deadlineMs: number | undefined,
  shape: Parameters<typeof readParams<T>>[1],
  run: (params: T, context: MethodContext) => Promise<unknown>,
): Method {
  return { deadlineMs, run: async (params: Params, context) => run(readParams<T>(params, shape), context) }
}

const asks = (run: (signal: AbortSignal) => Promise<unknown>): Method => method(DEADLINES.ask, {}, (_params, { signal }) => run(signal))

/** What a probe needs, without the names of databases and subscribers. */
export function healthOf({ time, health, query, children, postgres }: BoxStatus): object {
  const { inRecovery } = 'version' in postgres ? postgres : { inRecovery: null }
  const query_ = 'ms' in query ? { ok: true, ms: query.ms } : { ok: false, error: query.error }
  return { time, ...health, query: query_, inRecovery, children: children.map(({ name, status }) => ({ name, status })) }
}

function admin(view: BoxView): DatabaseAddress {
  const address = view.database()
  if (!address) throw new BeyondError('POSTGRES_UNAVAILABLE', 'The box is booting and Postgres does not run yet: try again soon.')
  return address
}

async function checkpoint(address: DatabaseAddress, signal: AbortSignal): Promise<object> {
  const startedAt = performance.now()
  await ended(signal, onPostgres(address, DEADLINES.checkpoint, 'take a checkpoint', (client) => client.query('CHECKPOINT')))
  return { ms: Math.round(performance.now() - startedAt) }
}

/** Config files and settings are read again. `read` does it; Postgres has no answer to a reload, so it is asked afterwards. */
export function reloadMethod(view: BoxView, read: () => Promise<{ readonly applied: readonly Change[]; readonly waiting: readonly Change[]; readonly problems: readonly string[] }>): Method {
  return method(DEADLINES.change, {}, async (_params, { signal }) => {
    const address = admin(view)
    const loadedAt = async (): Promise<string> =>
      onPostgres(address, DEADLINES.ask, 'say when it has read its files', async (client) => (await client.query<{ at: string }>('SELECT pg_conf_load_time()::text AS at')).rows[0].at)
    const before = await loadedAt()
    const { applied, waiting, problems } = await ended(signal, read())
    // Files that Postgres can't read leave the time as it was; what is wrong with them is told below.
    for (const until = performance.now() + RELOADED_MS; performance.now() < until && (await loadedAt()) === before; ) await sleep(LOOK_AGAIN_MS, undefined, { signal })
    const { postgres } = await gatherStatus(view, { sizes: false }, signal)
    const { pendingRestart, badSettings } = 'version' in postgres ? postgres : { pendingRestart: [], badSettings: [] }
    return { applied, waiting, problems, pendingRestart, badSettings }
  })
}

type Change = { readonly key: string; readonly need: string }

async function pause(view: BoxView, withinMs: number, signal: AbortSignal): Promise<object> {
  if (view.consoles().length === 0) throw new BeyondError('POSTGRES_UNAVAILABLE', 'PgBouncer does not run, so there is nothing to pause.')
  const startedAt = performance.now()
  const paused = await onPooler(() => new PoolerConsole(view.consoles).pause(withinMs, signal))
  if (!paused) throw new BeyondError('TIMEOUT', `Transactions still ran after ${withinMs} ms, so nothing is paused: give them more time, or end them.`)
  return { ms: Math.round(performance.now() - startedAt) }
}

async function resume(view: BoxView): Promise<object> {
  if (view.consoles().length === 0) throw new BeyondError('POSTGRES_UNAVAILABLE', 'PgBouncer does not run, so there is nothing to resume.')
  await onPooler(() => new PoolerConsole(view.consoles).resume())
  return {}
}

/** By hand, for a replica whose primary is gone for good: nothing here keeps the old primary from coming back. */
async function promote(address: DatabaseAddress, signal: AbortSignal): Promise<object> {
  return onPostgres(address, DEADLINES.promote, 'promote', async (client) => {
    const { rows } = await client.query<{ replica: boolean }>('SELECT pg_is_in_recovery() AS replica')
    if (!rows[0].replica) throw new BeyondError('BAD_REQUEST', 'This box is a primary already: only a replica can be promoted.')
    const startedAt = performance.now()
    const promoted = await ended(signal, client.query<{ done: boolean }>('SELECT pg_promote(true, 100) AS done'))
    if (!promoted.rows[0].done) throw new BeyondError('TIMEOUT', 'Postgres has not ended its recovery within 100 s: it goes on; look at beyond-pg status.')
    const after = await client.query<{ timeline: number; lsn: string }>(`SELECT ${TIMELINE} AS timeline, pg_current_wal_lsn()::text AS lsn`)
    return { ...after.rows[0], ms: Math.round(performance.now() - startedAt) }
  })
}

async function logs(path: string, { lines, follow, child, level }: LogParameters, { signal, send }: MethodContext): Promise<object> {
  await tailLog(path, { lines, follow, wanted: logFilter(child, level) }, send, signal)
  return {}
}

/** The orderly stop, once the answer is on its way. */
export function shutdownMethod(stop: () => void): Method {
  return method(DEADLINES.ask, {}, async () => {
    setTimeout(stop, AFTER_ANSWER_MS)
    return { pid: process.pid }
  })
}

/** The successor takes this one's place once the answer is on its way. `check` throws when the program on disk does not start. */
export function upgradeMethod(view: BoxView, check: () => Promise<void>, handOver: () => void): Method {
  return method(DEADLINES.change, {}, async (_params, { signal }) => {
    await ended(signal, check())
    setTimeout(handOver, AFTER_ANSWER_MS)
    return { startedAt: view.supervisor().startedAt }
  })
}

async function onPostgres<T>(address: DatabaseAddress, deadlineMs: number, what: string, work: Parameters<typeof withDatabase<T>>[2]): Promise<T> {
  try {
    return await withDatabase(address, deadlineMs, work)
  } catch (error) {
    if (error instanceof BeyondError || (error as Error).name === 'AbortError') throw error
    throw new BeyondError('POSTGRES_UNAVAILABLE', `Postgres did not ${what}: ${(error as Error).message}.`, { cause: error })
  }
}

async function onPooler<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw new BeyondError('POSTGRES_UNAVAILABLE', `PgBouncer did not do it: ${(error as Error).message}.`, { cause: error })
  }
}

/** The work, or the reason why nobody waits for it any more; the connection is closed behind it. */
async function ended<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  work.catch(() => undefined)
  const { promise, reject } = Promise.withResolvers<never>()
  const onAbort = (): void => reject(signal.reason as Error)
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    return await Promise.race([work, promise])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

/**
 * Asks the consoles of all PgBouncer workers, and adds up what they say.
 * Source: https://www.pgbouncer.org/usage.html#show-commands
 */
import type { Client } from 'pg'
import type { PoolerFacts } from './status-facts.ts'

type Row = Readonly<Record<string, unknown>>
export type WorkerAnswers = {
  readonly version: readonly Row[]
  readonly state: readonly Row[]
  readonly config: readonly Row[]
  readonly pools: readonly Row[]
  readonly stats: readonly Row[]
}

/** The database of the consoles themselves. */
const OWN = 'pgbouncer'

/** The console takes simple queries only, one at a time. */
export async function askWorker(client: Client): Promise<WorkerAnswers> {
  const show = async (what: string): Promise<readonly Row[]> => (await client.query(`SHOW ${what}`)).rows as Row[]
  return { version: await show('VERSION'), state: await show('STATE'), config: await show('CONFIG'), pools: await show('POOLS'), stats: await show('STATS') }
}

export function addUp(workers: readonly WorkerAnswers[]): PoolerFacts {
  const pools = workers.flatMap(({ pools }) => pools).filter((row) => row['database'] !== OWN)
  const stats = workers.flatMap(({ stats }) => stats).filter((row) => row['database'] !== OWN)
  const sum = (rows: readonly Row[], ...names: string[]): number => rows.reduce((total, row) => total + names.reduce((part, name) => part + number(row[name]), 0), 0)
  const longest = pools.map((row) => number(row['maxwait']) * 1000 + number(row['maxwait_us']) / 1000)
  const max = workers.flatMap(({ config }) => config.filter((row) => row['key'] === 'max_client_conn')).reduce((total, row) => total + number(row['value']), 0)
  const version = String(workers[0]?.version[0]?.['version'] ?? '')
  return {
    version: /\d+\.\d+(\.\d+)?/.exec(version)?.[0] ?? version,
    workers: workers.length,
    paused: workers.some(({ state }) => state.some((row) => row['key'] === 'paused' && row['value'] === 'yes')),
    clients: { active: sum(pools, 'cl_active'), waiting: sum(pools, 'cl_waiting'), max },
    servers: { active: sum(pools, 'sv_active'), idle: sum(pools, 'sv_idle', 'sv_used', 'sv_tested', 'sv_login') },
    maxWaitMs: Math.round(Math.max(0, ...longest)),
    totals: {
      transactions: sum(stats, 'total_xact_count'),
      queries: sum(stats, 'total_query_count'),
      receivedBytes: sum(stats, 'total_received'),
      sentBytes: sum(stats, 'total_sent'),
      transactionMs: sum(stats, 'total_xact_time') / 1000,
      queryMs: sum(stats, 'total_query_time') / 1000,
      waitMs: sum(stats, 'total_wait_time') / 1000,
    },
  }
}

const number = (value: unknown): number => Number(value ?? 0)

/** Gathers the facts about a running box: asks all parts at once, each with a deadline, so that one that hangs hides no other. */
import { X509Certificate } from 'node:crypto'
import { readFile, statfs } from 'node:fs/promises'
import type { ConnectOptions } from '../transport/client.ts'
import { formatLsn } from '../wal/lsn.ts'
import { type DatabaseAddress, withDatabase } from './database-client.ts'
import { judge } from './health.ts'
import type { ConsoleAddress } from './pooler-console.ts'
import type {
  BoxStatus,
  CertificateFacts,
  ChangesFacts,
  ChildFacts,
  DiskFacts,
  PoolerFacts,
  PostgresFacts,
  SupervisorFacts,
  Unknown,
} from './status-facts.ts'
import { addUp, askWorker } from './status-pooler.ts'
import { askPostgres, type PostgresQuestion } from './status-postgres.ts'

/** Where to look. Functions, because a box changes while it boots and runs. */
export type BoxView = {
  readonly supervisor: () => SupervisorFacts
  readonly children: () => readonly ChildFacts[]
  /** Past the pooler, as a superuser; undefined until the passwords are made. */
  readonly database: () => DatabaseAddress | undefined
  /** From a client's place. */
  readonly pooler: () => DatabaseAddress | undefined
  readonly consoles: () => readonly ConsoleAddress[]
  /** Where changes stream; undefined when none are wanted. */
  readonly changes: () => ConnectOptions | undefined
  readonly certificates: () => readonly { readonly name: string; readonly path: string }[]
  readonly diskPath: string
}

/** For each part; they are asked side by side. */
const PART_MS = 3_000
const DAY_MS = 86_400_000

export async function gatherStatus(view: BoxView, question: PostgresQuestion, signal: AbortSignal): Promise<BoxStatus> {
  const stream = view.changes()
  const [postgres, pooler, query, changes, disk, certificates] = await Promise.all([
    part(signal, () => postgresFacts(view, question)),
    part(signal, () => poolerFacts(view)),
    part(signal, () => oneQuery(view)),
    stream ? part(signal, (limit) => changesFacts(stream, limit)) : null,
    part(signal, () => diskFacts(view.diskPath)),
    Promise.all(view.certificates().map(certificateFacts)),
  ])
  signal.throwIfAborted()
  // Last, so that the children are those of now: one may have ended while it was asked.
  const facts = { time: new Date().toISOString(), box: view.supervisor(), children: view.children(), postgres, pooler, query, changes, disk, certificates }
  return { ...facts, health: judge(facts) }
}

/** The facts, or why there are none: an error of one part is a fact of the whole. */
async function part<T>(signal: AbortSignal, ask: (limit: AbortSignal) => Promise<T>): Promise<T | Unknown> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(PART_MS)])
  const { promise: late, reject } = Promise.withResolvers<never>()
  const onAbort = (): void => reject(new Error(`no answer within ${PART_MS / 1000} s`))
  limit.addEventListener('abort', onAbort, { once: true })
  try {
    return await Promise.race([ask(limit), late])
  } catch (error) {
    return { error: reasonOf(error) }
  } finally {
    limit.removeEventListener('abort', onAbort)
  }
}

/** An error of several addresses that were tried has no message of its own. */
function reasonOf(error: unknown): string {
  const { message, errors } = error as Error & { errors?: readonly Error[] }
  return message || errors?.[0]?.message || String(error)
}

const notYet = (): never => {
  throw new Error('not started yet')
}

async function postgresFacts(view: BoxView, question: PostgresQuestion): Promise<PostgresFacts> {
  return withDatabase(view.database() ?? notYet(), PART_MS, async (client) => {
    await client.query(`SET statement_timeout = ${PART_MS}; SET search_path = pg_catalog; SET jit = off`)
    return askPostgres(client, question)
  })
}

async function poolerFacts(view: BoxView): Promise<PoolerFacts> {
  const consoles = view.consoles()
  if (consoles.length === 0) notYet()
  return addUp(await Promise.all(consoles.map((address) => withDatabase({ ...address, database: 'pgbouncer' }, PART_MS, askWorker))))
}

async function oneQuery(view: BoxView): Promise<{ ms: number }> {
  const startedAt = performance.now()
  await withDatabase(view.pooler() ?? notYet(), PART_MS, (client) => client.query('SELECT 1'))
  return { ms: Math.round((performance.now() - startedAt) * 10) / 10 }
}

/** The client library is loaded when it is needed: a box without a change stream does without. */
async function changesFacts(options: ConnectOptions, signal: AbortSignal): Promise<ChangesFacts> {
  const { connect } = await import('../transport/client.ts')
  await using client = connect({ ...options, client: 'beyond-pg-status' })
  const { server, state, error, startedAt, slot, log, subscribers } = await client.status({ timeoutMs: PART_MS, signal })
  const iso = (micros: bigint): string => new Date(Number(micros / 1000n)).toISOString()
  return {
    server,
    state,
    error,
    startedAt: iso(startedAt),
    slot: slot.name,
    confirmedLsn: formatLsn(slot.confirmedLsn),
    lagBytes: Number(slot.lagBytes),
    logBytes: Number(log.bytes),
    logFiles: log.segments,
    newestAt: log.headTime === null ? null : iso(log.headTime),
    transactions: Number(log.transactions),
    changes: Number(log.changes),
    subscribers: subscribers.map(({ consumer, client, peer, address, connected, lagBytes, lagMs, sentBytes }) => ({
      name: consumer ?? `${client || peer || 'unknown'} ${address}`.trim(),
      durable: consumer !== null,
      connected,
      lagBytes: Number(lagBytes),
      lagMs: Number(lagMs),
      sentBytes: Number(sentBytes),
    })),
  }
}

async function diskFacts(path: string): Promise<DiskFacts> {
  const { bsize, blocks, bavail } = await statfs(path)
  return { path, totalBytes: blocks * bsize, freeBytes: bavail * bsize }
}

async function certificateFacts({ name, path }: { name: string; path: string }): Promise<CertificateFacts> {
  try {
    const { validTo } = new X509Certificate(await readFile(path))
    const until = Date.parse(validTo)
    return { name, path, validUntil: new Date(until).toISOString(), daysLeft: (until - Date.now()) / DAY_MS, error: null }
  } catch (error) {
    return { name, path, validUntil: null, daysLeft: null, error: (error as Error).message }
  }
}

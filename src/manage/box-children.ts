/** The children of a box: how each is started, when it serves, how it ends. */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { codes } from '../errors.ts'
import { type Account, firstUnreachable, withAncestors } from './account.ts'
import { readIfThere, writeFileAtomic } from './atomic-file.ts'
import type { BoxConfig, CdcConfig } from './box-config.ts'
import { type DatabaseAddress, sqlStateOf, withDatabase } from './database-client.ts'
import { PUBLICATION } from './database-setup.ts'
import type { Layout } from './layout.ts'
import { clearTheWay, type Leftovers } from './leftovers.ts'
import { holdsUdpPort } from './listening.ts'
import { ownLine, pgbouncerLine, postgresLine } from './log-line.ts'
import { workerConfig } from './pgbouncer-config.ts'
import { PoolerWorkers, workerName } from './pooler-workers.ts'
import type { Programs } from './programs.ts'
import { passwordFile, type Passwords } from './secrets.ts'
import type { ChildSpec } from './supervised-child.ts'

const SLOT = 'beyond_cdc'
const LOOK_AGAIN_MS = 20
const QUERY_MS = 5_000
const LIVENESS_MS = 15_000

export type BoxParts = {
  readonly config: BoxConfig
  readonly layout: Layout
  readonly programs: Programs
  readonly passwords: Passwords
  readonly environment: Readonly<Record<string, string>>
  readonly cdcEnvironment: Readonly<Record<string, string>>
  readonly logger: Logger
}

export function postgresChild({ config, layout, programs, passwords, environment, logger }: BoxParts): ChildSpec {
  const address = { host: layout.sockets, port: config.postgresPort, database: 'postgres' }
  const admin = { ...address, user: 'beyond_admin', password: passwords.beyond_admin }
  return {
    name: 'postgres',
    program: programs.postgres,
    args: ['-D', layout.postgres, '-c', `config_file=${layout.config}/postgresql.conf`],
    // A greedy query may be ended for want of memory, the postmaster last of all: backends take their own score back.
    oomScoreAdj: -900,
    environment: { ...environment, PG_OOM_ADJUST_FILE: '/proc/self/oom_score_adj', PG_OOM_ADJUST_VALUE: '0' },
    account: layout.account,
    interpret: postgresLine,
    settings: `${layout.sockets}:${config.postgresPort}`,
    reloadSignal: 'SIGHUP',
    prepare: (signal) => clearTheWay(layout, config.postgresPort, logger, signal),
    // A refused password is an answer too; the set-up that follows says what is wrong with it.
    ready: async (_process, signal) => {
      await untilAnswered(admin, signal, (sqlState) => sqlState === '28P01' || sqlState === '28000')
    },
    liveness: { ask: () => answered(admin, 'SELECT 1'), everyMs: LIVENESS_MS, otherwise: 'warn' },
    beforeStop: async (hurry) => {
      // The shutdown's own checkpoint then has little left to write.
      const checkpoint = withDatabase(admin, 30_000, (client) => client.query('CHECKPOINT'))
      await Promise.race([checkpoint, aborted(hurry)])
    },
    // Fast, then immediate. SIGTERM would wait for clients, for ever.
    stopSteps: [{ signal: 'SIGINT', withinMs: 60_000 }],
    hurrySignal: 'SIGQUIT',
  }
}

/** Running transactions may finish, then at once. */
export const poolerStopSteps = [
  { signal: 'SIGINT', withinMs: 3_000 },
  { signal: 'SIGQUIT', withinMs: 2_000 },
] as const

/** One worker of PgBouncer, reached over its own Unix socket: on the port any of them may answer. */
export function poolerChild(
  { config, programs, passwords, environment, layout }: BoxParts,
  worker: { readonly name: string; readonly iniFile: string; readonly socketDirectory: string },
): ChildSpec {
  const address = { host: worker.socketDirectory, port: config.poolerPort, user: 'beyond_pooler', password: passwords.beyond_pooler }
  return {
    name: worker.name,
    program: programs.pgbouncer,
    args: [worker.iniFile],
    environment,
    account: layout.account,
    interpret: pgbouncerLine,
    settings: `${config.listen}:${config.poolerPort} ${worker.socketDirectory} so_reuseport`,
    reloadSignal: 'SIGHUP',
    ready: async ({ adopted }, signal) => {
      if (adopted) await resume(address)
      // Through the pooler's own login and the lookup that all others depend on.
      await untilAnswered({ ...address, database: 'postgres' }, signal, () => false, "SELECT FROM beyond_pooler.lookup('beyond_pooler')")
    },
    readyWithinMs: 60_000,
    liveness: { ask: () => answered({ ...address, database: 'pgbouncer' }, 'SHOW VERSION'), everyMs: LIVENESS_MS, otherwise: 'restart' },
    stopSteps: poolerStopSteps,
    hurrySignal: 'SIGKILL',
  }
}

/** An earlier supervisor may have been killed while it held the queries back. */
async function resume(address: Omit<DatabaseAddress, 'database'>): Promise<void> {
  const work = withDatabase({ ...address, database: 'pgbouncer' }, QUERY_MS, async (client) => {
    const { rows } = await client.query<{ key: string; value: string }>('SHOW STATE')
    if (rows.some(({ key, value }) => key === 'paused' && value === 'yes')) await client.query('RESUME')
  })
  await work.catch(() => undefined) // the check that follows tells whether it serves
}

/** All workers of PgBouncer. `iniFile` is what they share. */
export function poolerWorkers(parts: BoxParts, options: { iniFile: string; most: number; clientsEach: number; leftovers: Leftovers }): PoolerWorkers {
  const { layout, config, logger } = parts
  const { iniFile, most } = options
  const socketDirectoryOf = (number: number): string => (number === 1 ? layout.sockets : join(layout.sockets, String(number)))
  const iniFileOf = (number: number): string => join(layout.pooler, `pgbouncer-${number}.ini`)
  const socketDirectories = Array.from({ length: most }, (_value, at) => socketDirectoryOf(at + 1))
  return new PoolerWorkers({
    ...options,
    specOf: (number) => poolerChild(parts, { name: workerName(number), iniFile: iniFileOf(number), socketDirectory: socketDirectoryOf(number) }),
    socketDirectoryOf,
    socketOwner: layout.accountOwner,
    writeConfig: (number) => {
      const access = layout.account.separate ? { mode: 0o640, owner: { uid: 0, gid: layout.account.gid } } : { mode: 0o600 }
      writeFileAtomic(iniFileOf(number), workerConfig({ number, socketDirectories, port: config.poolerPort, shared: readIfThere(iniFile) ?? '' }), access)
    },
    runDirectory: layout.run,
    logger,
  })
}

export function cdcChild(parts: BoxParts, cdc: CdcConfig, account: Account | undefined): ChildSpec {
  const { config, layout, cdcEnvironment } = parts
  let onReady = (): void => undefined
  return {
    name: 'cdc',
    program: process.execPath,
    args: [
      cdcProgram(),
      'serve',
      '--json',
      `--socket-dir=${layout.sockets}`,
      `--postgres-port=${config.postgresPort}`,
      '--user=beyond_cdc',
      `--password-file=${passwordFile(layout.secrets, 'beyond_cdc')}`,
      `--database=${cdc.database}`,
      `--publication=${PUBLICATION}`,
      `--slot=${SLOT}`,
      `--data=${layout.cdc}`,
      `--listen=${config.listen}`,
      `--port=${cdc.quicPort}`,
      `--tls-dir=${layout.tls}`,
    ],
    environment: cdcEnvironment,
    account,
    interpret: ownLine,
    takeLine: (line) => {
      const isReady = line.startsWith('READY')
      if (isReady) onReady()
      return isReady
    },
    ready: ({ adopted, pid }, signal) => {
      if (adopted) return untilListening(pid ?? 0, cdc.quicPort, signal) // its message may have been read long ago
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      onReady = resolve
      signal.addEventListener('abort', () => reject(signal.reason as Error))
      return promise
    },
    isHopeless: ({ code }) => Object.values(codes).some((entry) => !entry.retry && entry.exit === code && code !== codes.INTERNAL.exit),
    stopSteps: [{ signal: 'SIGTERM', withinMs: 10_000 }],
    hurrySignal: 'SIGKILL',
  }
}

/**
 * The CDC service needs no more rights than Postgres, so it runs as the same account, if that one can read this program.
 * A checkout below /root can't be read by any account but root; then the service runs as whoever started the box.
 */
export function cdcAccount(account: Account): Account | undefined {
  if (!account.separate) return undefined
  const folders = withAncestors(fileURLToPath(new URL('.', import.meta.url)))
  const canRead = firstUnreachable(account, 'r', [cdcProgram(), fileURLToPath(import.meta.url)]) === undefined
  const canReach = firstUnreachable(account, 'x', [...folders, process.execPath]) === undefined
  return canRead && canReach ? account : undefined
}

// Beside us in the tree, and with our own ending: .ts in a checkout, .js when compiled.
const cdcProgram = (): string => fileURLToPath(new URL(`../beyond-pg-cdc${import.meta.url.slice(-3)}`, import.meta.url))

/** A refusal, as with too many clients, is an answer too. */
async function answered(address: DatabaseAddress, query: string): Promise<void> {
  try {
    await withDatabase(address, QUERY_MS, (client) => client.query(query))
  } catch (error) {
    if (sqlStateOf(error) === undefined) throw error
  }
}

async function untilListening(pid: number, udpPort: number, signal: AbortSignal): Promise<void> {
  while (!holdsUdpPort(pid, udpPort)) await sleep(LOOK_AGAIN_MS, undefined, { signal })
}

/** Asks until there is an answer; an error with one of the `accepted` SQLSTATEs is one. */
async function untilAnswered(
  address: DatabaseAddress,
  signal: AbortSignal,
  accepted: (sqlState: string | undefined) => boolean,
  query = 'SELECT 1',
): Promise<void> {
  for (;;) {
    signal.throwIfAborted()
    try {
      await withDatabase(address, QUERY_MS, (client) => client.query(query))
      return
    } catch (error) {
      if (accepted(sqlStateOf(error))) return
    }
    await sleep(LOOK_AGAIN_MS, undefined, { signal })
  }
}

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => (signal.aborted ? resolve() : signal.addEventListener('abort', () => resolve(), { once: true })))

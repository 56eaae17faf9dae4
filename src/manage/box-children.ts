/** The three children of a box: how each is started, when it serves, how it ends. */
import { fileURLToPath } from 'node:url'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { codes } from '../errors.ts'
import { type Account, firstUnreachable, withAncestors } from './account.ts'
import { type BoxConfig, type CdcConfig, localAddress } from './box-config.ts'
import { type DatabaseAddress, sqlStateOf, withDatabase } from './database-client.ts'
import { PUBLICATION } from './database-setup.ts'
import type { Layout } from './layout.ts'
import { clearTheWay } from './leftovers.ts'
import { holdsUdpPort } from './listening.ts'
import { ownLine, pgbouncerLine, postgresLine } from './log-line.ts'
import type { Programs } from './programs.ts'
import { passwordFile, type Passwords } from './secrets.ts'
import type { ChildSpec } from './supervised-child.ts'

const SLOT = 'beyond_cdc'
const LOOK_AGAIN_MS = 20
const QUERY_MS = 5_000

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
    environment,
    account: layout.account,
    interpret: postgresLine,
    settings: `${layout.sockets}:${config.postgresPort}`,
    reloadSignal: 'SIGHUP',
    prepare: (signal) => clearTheWay(layout, config.postgresPort, logger, signal),
    // A refused password is an answer too; the set-up that follows says what is wrong with it.
    ready: async (_process, signal) => {
      await untilAnswered(admin, signal, (sqlState) => sqlState === '28P01' || sqlState === '28000')
    },
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

export function poolerChild({ config, layout, programs, passwords, environment }: BoxParts, iniFile: string, ca: string): ChildSpec {
  // Through the pooler's own login and the lookup that all others depend on.
  const host = localAddress(config.listen)
  const address = { host, port: config.poolerPort, user: 'beyond_pooler', password: passwords.beyond_pooler, database: 'postgres', ca }
  return {
    name: 'pgbouncer',
    program: programs.pgbouncer,
    args: [iniFile],
    environment,
    account: layout.account,
    interpret: pgbouncerLine,
    settings: `${config.listen}:${config.poolerPort} ${layout.sockets}`,
    reloadSignal: 'SIGHUP',
    ready: (_process, signal) => untilAnswered(address, signal, () => false, "SELECT FROM beyond_pooler.lookup('beyond_pooler')"),
    readyWithinMs: 60_000,
    // Running transactions may finish, then at once.
    stopSteps: [
      { signal: 'SIGINT', withinMs: 3_000 },
      { signal: 'SIGQUIT', withinMs: 2_000 },
    ],
    hurrySignal: 'SIGKILL',
  }
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

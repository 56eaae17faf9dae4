/** A supervised Postgres behind a PgBouncer, and a Retuner for a machine that the test may change at will. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { Client } from 'pg'
import { pino } from 'pino'
import { currentAccount } from '../../src/manage/account.ts'
import { withDatabase } from '../../src/manage/database-client.ts'
import { postgresLine } from '../../src/manage/log-line.ts'
import { renderSettings, type Settings } from '../../src/manage/postgres-config.ts'
import { PoolerConsole } from '../../src/manage/pooler-console.ts'
import { Retuner, type RetuneOptions } from '../../src/manage/retune.ts'
import { checkSettings } from '../../src/manage/settings-check.ts'
import { SupervisedChild } from '../../src/manage/supervised-child.ts'
import { planTuning, settingsOf, type TuningInput } from '../../src/manage/tuning.ts'
import type { BenchTarget } from './pgbench.ts'
import { bindir, startPostgres, until } from './postgres.ts'

const MB = 2 ** 20

export type Retuned = AsyncDisposable & {
  /** What its Retuners read; the test changes it. */
  machine: TuningInput
  /** One that believes that Postgres was tuned for what `machine` is now. */
  retuner(options?: Partial<RetuneOptions>): Retuner
  readonly target: BenchTarget
  readonly postgres: SupervisedChild
  /** Of the console of PgBouncer. */
  readonly console: PoolerConsole
  /** How often Postgres was restarted, and PgBouncer resized. */
  readonly counts: { restarts: number; resizes: number }
  /** Through the pooler. */
  client(): Promise<Client>
  show(name: string): Promise<string>
  /** The layer of the user; read at the next start or reload. */
  writeUserLayer(text: string): void
  /** As another supervisor would have left it. */
  writeTuning(machine: TuningInput): void
  reload(): Promise<void>
  log(): string
}

export async function startRetuned(): Promise<Retuned> {
  const server = await startPostgres()
  await server.stop('SIGINT')
  const { directory, dataDirectory, socketDirectory, port } = server
  const account = currentAccount(undefined)
  const [confD, run, poolerSockets] = ['conf.d', 'run', 'pooler'].map((name) => join(directory, name))
  for (const path of [confD, run, poolerSockets]) mkdirSync(path)
  if (account.separate) chownSync(poolerSockets, 65_534, 65_534)
  const uid = account.separate ? { ...account, uid: 65_534, gid: 65_534 } : account // as whom startPostgres made the data directory
  const file = join(confD, '01-tuning.conf')
  const mainFile = join(directory, 'postgresql.conf')
  writeFileSync(mainFile, "include_dir 'conf.d'\n")
  writeFileSync(join(confD, '00-image.conf'), renderSettings('Image.', { listen_addresses: '', unix_socket_directories: socketDirectory, port }))
  const write = (settings: Settings): void => writeFileSync(file, renderSettings('Tuning.', settings))
  const machine: TuningInput = { memoryBytes: 512 * MB, cpus: 2 }
  write(settingsOf(planTuning(machine)))

  const log: string[] = []
  const logger = pino({ level: 'info' }, { write: (line: string) => void log.push(line) })
  const environment = { LC_ALL: 'C.UTF-8', PATH: process.env['PATH'] ?? '' }
  const database = { host: socketDirectory, port, user: 'postgres', password: '', database: 'postgres' }
  const args = ['-D', dataDirectory, '-c', `config_file=${mainFile}`]
  const postgres = new SupervisedChild(
    {
      name: 'postgres',
      program: join(bindir, 'postgres'),
      args,
      environment,
      account: uid,
      interpret: postgresLine,
      ready: async (_process, signal) => {
        while (!(await withDatabase(database, 5_000, (client) => client.query('SELECT 1')).then(() => true, () => false))) signal.throwIfAborted()
      },
      stopSteps: [{ signal: 'SIGINT', withinMs: 30_000 }],
      hurrySignal: 'SIGQUIT',
    },
    { runDirectory: run, logger },
  )
  const poolerPort = await freePort()
  const ini = join(directory, 'pgbouncer.ini')
  writeFileSync(join(directory, 'userlist.txt'), '"postgres" ""\n')
  writeFileSync(
    ini,
    [
      '[databases]',
      `* = host=${socketDirectory} port=${port}`,
      '[pgbouncer]',
      'listen_addr = 127.0.0.1',
      `listen_port = ${poolerPort}`,
      `unix_socket_dir = ${poolerSockets}`,
      'pool_mode = transaction',
      'max_prepared_statements = 200',
      'auth_type = trust',
      `auth_file = ${join(directory, 'userlist.txt')}`,
      'admin_users = postgres',
      `logfile = ${poolerSockets}/log`,
      'server_login_retry = 1',
      '',
    ].join('\n'),
  )
  let pooler: ChildProcess | undefined
  const counts = { restarts: 0, resizes: 0 }
  const console = new PoolerConsole(() => [{ host: poolerSockets, port: poolerPort, user: 'postgres', password: '' }])
  const target = { host: '127.0.0.1', port: poolerPort, user: 'postgres', password: '', database: 'postgres' }
  const retuned: Retuned = {
    machine,
    retuner: (options) =>
      new Retuner({
        read: () => retuned.machine,
        applied: retuned.machine,
        write,
        check: (settings) => checkSettings({ program: join(bindir, 'postgres'), args, environment, account: uid }, settings, new AbortController().signal),
        restart: () => {
          counts.restarts++
          return postgres.restart()
        },
        pooler: {
          isPaused: () => console.isPaused(),
          pause: (withinMs, signal) => console.pause(withinMs, signal),
          resume: () => console.resume(),
          resize: async () => void counts.resizes++,
        },
        database,
        logger,
        ...options,
      }),
    target,
    postgres,
    console,
    counts,
    async client() {
      const client = new Client(target)
      client.on('error', () => undefined)
      await client.connect()
      return client
    },
    async show(name) {
      return withDatabase(database, 5_000, async (client) => (await client.query<{ value: string }>('SELECT current_setting($1) AS value', [name])).rows[0].value)
    },
    writeUserLayer: (text) => writeFileSync(join(confD, '99-user.conf'), text),
    writeTuning: (input) => write(settingsOf(planTuning(input))),
    async reload() {
      const before = await withDatabase(database, 5_000, async (client) => (await client.query('SELECT pg_conf_load_time()::text AS at, pg_reload_conf()')).rows[0].at)
      await until('the config files are read', async () => withDatabase(database, 5_000, async (client) => (await client.query('SELECT pg_conf_load_time()::text AS at')).rows[0].at !== before))
    },
    log: () => log.join(''),
    async [Symbol.asyncDispose]() {
      if (pooler && pooler.exitCode === null && pooler.signalCode === null) {
        pooler.kill('SIGKILL')
        await once(pooler, 'exit')
      }
      await postgres.stop(AbortSignal.abort())
      rmSync(directory, { recursive: true, force: true })
    },
  }
  try {
    await postgres.start()
    pooler = spawn(process.env['BEYOND_PGBOUNCER'] ?? 'pgbouncer', [ini], { ...(account.separate ? { uid: 65_534, gid: 65_534 } : {}), stdio: 'ignore' })
    await until('PgBouncer serves', () => retuned.client().then((client) => client.end().then(() => true), () => false)).catch((error: Error) => {
      throw new Error(`${error.message}: ${readFileSync(join(poolerSockets, 'log'), 'utf8')}`)
    })
    return retuned
  } catch (error) {
    await retuned[Symbol.asyncDispose]()
    throw error
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** A real, throwaway Postgres 18 for a test: own folder, Unix socket only, dropped privileges, killed by pid at the end. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { chownSync, existsSync, mkdtempSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'

export const bindir = process.env['BEYOND_PG_BINDIR'] ?? '/usr/lib/postgresql/18/bin'
/** Postgres refuses to run as root. */
const NOBODY = 65534
const unprivileged = process.getuid?.() === 0 ? { uid: NOBODY, gid: NOBODY } : {}
const PORT = 5432

export type TestPostgres = AsyncDisposable & {
  readonly directory: string
  readonly dataDirectory: string
  readonly socketDirectory: string
  readonly port: number
  readonly pid: number
  /** Rows of a query as the superuser, each a list of texts. */
  query(sql: string, database?: string): Promise<string[][]>
  client(database?: string): Promise<pg.Client>
  start(): Promise<void>
  /** SIGINT: fast. SIGQUIT: immediate. SIGKILL of the postmaster and all of its children: a crash. */
  stop(signal?: 'SIGINT' | 'SIGQUIT' | 'SIGKILL'): Promise<void>
}

function run(program: string, args: string[]): void {
  const { status, stderr, error } = spawnSync(join(bindir, program), args, { ...unprivileged, encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} failed: ${error?.message ?? stderr}`)
}

/** Waits until `condition` holds; fails after `timeoutMs` with what was waited for. */
export async function until(what: string, condition: () => boolean | Promise<boolean>, timeoutMs = 20_000): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`waited ${timeoutMs} ms in vain until ${what}`)
    await sleep(20)
  }
}

/** `initdb`: more arguments for it. */
export async function startPostgres(settings: Record<string, string> = {}, initdb: readonly string[] = []): Promise<TestPostgres> {
  const directory = mkdtempSync(join(tmpdir(), 'beyond-pg-test-'))
  const dataDirectory = join(directory, 'data')
  const socketDirectory = join(directory, 'socket')
  mkdirSync(socketDirectory)
  if (unprivileged.uid !== undefined) for (const path of [directory, socketDirectory]) chownSync(path, NOBODY, NOBODY)
  run('initdb', ['-D', dataDirectory, '-U', 'postgres', '-A', 'trust', '--locale-provider=builtin', '--locale=C.UTF-8', '--no-sync', ...initdb])
  let child: ChildProcess | undefined
  const log = join(directory, 'log')

  const server: TestPostgres = {
    directory,
    dataDirectory,
    socketDirectory,
    port: PORT,
    get pid() {
      return child!.pid!
    },
    async client(database = 'postgres') {
      const client = new pg.Client({ host: socketDirectory, port: PORT, user: 'postgres', database })
      client.on('error', () => {})
      await client.connect()
      return client
    },
    async query(sql, database) {
      const client = await server.client(database)
      try {
        const { rows } = await client.query<string[]>({ text: sql, rowMode: 'array', types: { getTypeParser: () => (text: string) => text } as never })
        return rows
      } finally {
        await client.end()
      }
    },
    async start() {
      const all = {
        listen_addresses: '',
        unix_socket_directories: socketDirectory,
        port: String(PORT),
        wal_level: 'logical',
        shared_buffers: '64MB',
        logging_collector: 'off',
        max_wal_senders: '10',
        ...settings,
      }
      const args = Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`])
      const started = spawn('/bin/sh', ['-c', `exec "$0" "$@" >>"${log}" 2>&1`, join(bindir, 'postgres'), '-D', dataDirectory, ...args], { ...unprivileged, stdio: 'ignore' })
      child = started
      await until('Postgres accepts connections', async () => {
        if (started.exitCode !== null) throw new Error(`Postgres did not start: ${existsSync(log) ? readFileSync(log, 'utf8').slice(-2000) : ''}`)
        try {
          await server.query('SELECT 1')
          return true
        } catch {
          return false
        }
      })
    },
    async stop(signal = 'SIGINT') {
      const running = child
      if (!running || running.exitCode !== null || running.signalCode !== null) return
      const gone = new Promise((resolve) => running.once('exit', resolve))
      // Children first would be restarted; the postmaster first leaves them to see its death.
      // Held still, it forks no more of them.
      if (signal === 'SIGKILL') running.kill('SIGSTOP')
      const children = signal === 'SIGKILL' ? childrenOf(running.pid!) : []
      running.kill(signal)
      for (const pid of children)
        try {
          process.kill(pid, 'SIGKILL')
        } catch {
          // It was gone already.
        }
      await gone
      await until('the children of Postgres are gone', () => children.every((pid) => !existsSync(`/proc/${pid}`) || readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ')))
    },
    async [Symbol.asyncDispose]() {
      await server.stop('SIGQUIT')
      rmSync(directory, { recursive: true, force: true })
    },
  }
  try {
    await server.start()
  } catch (error) {
    await server[Symbol.asyncDispose]()
    throw error
  }
  return server
}

function childrenOf(pid: number): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)
}

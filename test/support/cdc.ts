/** A real CDC service as a child process beside a real Postgres, with certificates of its own. */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { createAuthority } from './certificates.ts'
import type { TestPostgres } from './postgres.ts'

export const cdcProgram = fileURLToPath(new URL('../../src/beyond-pg-cdc.ts', import.meta.url))

export type TestCdc = AsyncDisposable & {
  readonly port: number
  readonly pid: number
  /** Whether the process that was started last has not ended. */
  readonly running: boolean
  readonly dataDirectory: string
  /** For `connect` and `subscribe` of the client library. */
  readonly connect: { readonly server: string; readonly tls: { readonly caFile: string; readonly certFile: string; readonly keyFile: string } }
  /** Everything that the service has written to standard error. */
  readonly log: () => string
  /** Starts it (again), on the same port. Resolves when it listens; rejects with what it said when it ends instead. */
  start(flags?: readonly string[]): Promise<void>
  /** Waits until it ends by itself: the exit code. */
  ended(): Promise<number | null>
  /** Resolves with the exit code, null after a signal that it did not handle. */
  stop(signal?: NodeJS.Signals): Promise<number | null>
}

/** Role, publication and files are made here; the service makes its slot. */
export async function startCdc(postgres: TestPostgres, flags: readonly string[] = []): Promise<TestCdc> {
  await postgres.query("DO $$ BEGIN CREATE ROLE beyond_cdc LOGIN REPLICATION PASSWORD 'test'; EXCEPTION WHEN duplicate_object THEN END $$")
  if ((await postgres.query("SELECT 1 FROM pg_publication WHERE pubname = 'beyond'")).length === 0) await postgres.query('CREATE PUBLICATION beyond FOR ALL TABLES')
  const tls = join(postgres.directory, 'tls')
  mkdirSync(tls, { recursive: true })
  const authority = await createAuthority()
  const server = await authority.issue({ name: 'localhost', use: 'server', hosts: ['localhost', '127.0.0.1'] })
  const client = await authority.issue({ name: 'test client', use: 'client' })
  const files = { 'ca.crt': authority.cert, 'server.crt': server.cert, 'server.key': server.key, 'client.crt': client.cert, 'client.key': client.key }
  for (const [name, text] of Object.entries(files)) writeFileSync(join(tls, name), text, { mode: 0o600 })
  writeFileSync(join(postgres.directory, 'password'), 'test', { mode: 0o600 })

  let child: ChildProcess | undefined
  let port = 0
  let log = ''
  const dataDirectory = join(postgres.directory, 'cdc')
  const cdc: TestCdc = {
    get port() {
      return port
    },
    get pid() {
      return child!.pid!
    },
    get running() {
      return child !== undefined && child.exitCode === null && child.signalCode === null
    },
    dataDirectory,
    get connect() {
      return { server: `127.0.0.1:${port}`, tls: { caFile: join(tls, 'ca.crt'), certFile: join(tls, 'client.crt'), keyFile: join(tls, 'client.key') } }
    },
    log: () => log,
    async start(more = []) {
      const args = ['serve', '--socket-dir', postgres.socketDirectory, '--postgres-port', String(postgres.port), '--password-file', join(postgres.directory, 'password')]
      const started = spawn(process.execPath, [cdcProgram, ...args, '--data', dataDirectory, '--tls-dir', tls, '--port', String(port), ...flags, ...more], { stdio: ['ignore', 'pipe', 'pipe'] })
      child = started
      const before = log.length
      started.stderr.setEncoding('utf8').on('data', (text: string) => (log += text))
      await new Promise<void>((resolve, reject) => {
        started.once('exit', (code) => reject(new Error(`the service ended with ${code}: ${log.slice(before)}`)))
        createInterface(started.stdout).once('line', (line) => {
          if (!line.startsWith('READY ')) return reject(new Error(`expected READY, got ${line}`))
          port = (JSON.parse(line.slice(6)) as { port: number }).port
          resolve()
        })
      })
    },
    async ended() {
      const running = child!
      return running.exitCode !== null || running.signalCode !== null ? running.exitCode : new Promise((resolve) => running.once('exit', resolve))
    },
    async stop(signal = 'SIGTERM') {
      const running = child
      if (!running) return null
      if (running.exitCode !== null || running.signalCode !== null) return running.exitCode
      const gone = new Promise<number | null>((resolve) => running.once('exit', resolve))
      running.kill(signal)
      return gone
    },
    async [Symbol.asyncDispose]() {
      await cdc.stop('SIGKILL')
    },
  }
  await cdc.start()
  return cdc
}

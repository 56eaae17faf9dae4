/** `beyond-pg-sink run` as a child process, with certificates of its own. */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { request } from 'node:https'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { createAuthority } from './certificates.ts'
import { bindir, type TestPostgres } from './postgres.ts'

export const sinkProgram = fileURLToPath(new URL('../../src/beyond-pg-sink.ts', import.meta.url))

export type SinkProcess = AsyncDisposable & {
  readonly directory: string
  readonly pid: number
  readonly log: () => string
  /** Settles when it says READY; rejects with what it said when it ends instead. */
  start(): Promise<{ readonly port: number; readonly sinkId: string }>
  stop(signal?: NodeJS.Signals): Promise<number | null>
  /** The body of the answer, from JSON. Throws with the status when it is an error. */
  call(method: string, path: string, body?: unknown): Promise<Record<string, unknown>>
}

export async function sinkProcess(folder: string, postgres: TestPostgres, flags: readonly string[] = []): Promise<SinkProcess> {
  const tls = join(folder, 'tls')
  mkdirSync(tls, { recursive: true })
  const authority = await createAuthority()
  const server = await authority.issue({ name: 'localhost', use: 'server', hosts: ['localhost', '127.0.0.1'] })
  const client = await authority.issue({ name: 'box', use: 'client' })
  const files = { 'ca.crt': authority.cert, 'server.crt': server.cert, 'server.key': server.key, 'client.crt': client.cert, 'client.key': client.key }
  for (const [name, text] of Object.entries(files)) writeFileSync(join(tls, name), text, { mode: 0o600 })
  const directory = join(folder, 'data')
  let child: ChildProcess | undefined
  let port = 0
  let log = ''
  const ended = (process_: ChildProcess) => process_.exitCode !== null || process_.signalCode !== null
  const it: SinkProcess = {
    directory,
    get pid() {
      return child?.pid ?? 0
    },
    log: () => log,
    start: async () => {
      const args = ['run', '--data', directory, '--name', 'sink1', '--bindir', bindir, '--port', '0', '--tls-dir', tls, '--role', 'box=admin']
      const primary = ['--primary', postgres.socketDirectory, '--primary-port', String(postgres.port), '--primary-user', 'postgres']
      const started = spawn(process.execPath, [sinkProgram, ...args, ...primary, '--min-free', '1MB', ...flags], { stdio: ['ignore', 'pipe', 'pipe'] })
      child = started
      started.stderr.setEncoding('utf8').on('data', (text: string) => (log += text))
      return new Promise((resolve, reject) => {
        createInterface({ input: started.stdout }).on('line', (line) => {
          if (!line.startsWith('READY ')) return
          const address = JSON.parse(line.slice(6)) as { port: number; sinkId: string }
          port = address.port
          resolve(address)
        })
        started.once('close', (code) => reject(Object.assign(new Error(`the sink ended with ${code}: ${log}`), { exitCode: code })))
      })
    },
    stop: async (signal = 'SIGTERM') => {
      const running = child
      if (!running || ended(running)) return running?.exitCode ?? null
      const gone = new Promise<number | null>((resolve) => running.once('exit', (code) => resolve(code)))
      running.kill(signal)
      return gone
    },
    call: (method, path, body) =>
      new Promise((resolve, reject) => {
        const [ca, cert, key] = ['ca.crt', 'client.crt', 'client.key'].map((name) => readFileSync(join(tls, name)))
        const text = body === undefined ? undefined : JSON.stringify(body)
        const headers = text === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }
        const sent = request({ host: '127.0.0.1', port, servername: 'localhost', path, method, ca, cert, key, headers, timeout: 20_000, agent: false }, (response) => {
          let answer = ''
          response.setEncoding('utf8').on('data', (piece: string) => (answer += piece))
          response.on('end', () => {
            if ((response.statusCode ?? 500) >= 400) reject(new Error(`${response.statusCode}: ${answer}`))
            else resolve(JSON.parse(answer || '{}') as Record<string, unknown>)
          })
        })
        sent.once('error', reject)
        sent.end(text)
      }),
    [Symbol.asyncDispose]: async () => {
      await it.stop('SIGKILL')
    },
  }
  return it
}

/** Sinks as processes of their own, for a box to be told of. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { createAuthority } from '../support/certificates.ts'
import { bindir } from '../support/postgres.ts'
import { sinkProgram } from '../support/sink-process.ts'
import { freePorts, kill, processesIn } from './box-process.ts'

export type TestSink = {
  readonly name: string
  readonly url: string
  readonly data: string
  log: string
  start(): Promise<void>
  kill(signal?: NodeJS.Signals): Promise<void>
}

export type TestSinks = {
  readonly all: readonly TestSink[]
  /** What the box is told. */
  readonly environment: Record<string, string>
}

export async function startSinks(t: TestContext, folder: string, count: number): Promise<TestSinks> {
  const tls = join(folder, 'sink-tls')
  mkdirSync(tls, { recursive: true })
  const authority = await createAuthority()
  const server = await authority.issue({ name: 'localhost', use: 'server', hosts: ['localhost', '127.0.0.1'] })
  const client = await authority.issue({ name: 'box', use: 'client' })
  const files = { 'ca.crt': authority.cert, 'server.crt': server.cert, 'server.key': server.key, 'client.crt': client.cert, 'client.key': client.key }
  for (const [name, text] of Object.entries(files)) writeFileSync(join(tls, name), text, { mode: 0o600 })
  const all: TestSink[] = []
  for (let number = 1; number <= count; number++) all.push(sinkOf(t, folder, `sink${number}`, (await freePorts()).postgres, tls))
  await Promise.all(all.map((sink) => sink.start()))
  return { all, environment: { BEYOND_PG_WAL_SINK: all.map(({ url }) => url).join(','), BEYOND_PG_WAL_SINK_TLS: tls } }
}

function sinkOf(t: TestContext, folder: string, name: string, port: number, tls: string): TestSink {
  let child: ChildProcess | undefined
  const sink: TestSink = {
    name,
    url: `https://localhost:${port}`,
    data: join(folder, name),
    log: '',
    start: async () => {
      const args = ['run', '--json', '--data', sink.data, '--name', name, '--bindir', bindir, '--port', String(port), '--tls-dir', tls, '--role', 'box=seal', '--min-free', '1MB']
      const started = spawn(process.execPath, [sinkProgram, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
      child = started
      started.stderr.setEncoding('utf8').on('data', (text: string) => (sink.log += text))
      await new Promise<void>((resolve, reject) => {
        started.stdout.once('data', () => resolve())
        started.once('close', (code) => reject(new Error(`the sink ended with ${code}: ${sink.log}`)))
      })
    },
    // As when its host dies: its receiver too, which would go on without it.
    kill: async (signal = 'SIGKILL') => {
      const running = child
      if (!running || running.exitCode !== null || running.signalCode !== null) return
      const gone = new Promise((resolve) => running.once('exit', resolve))
      running.kill(signal)
      await gone
      for (const pid of processesIn(sink.data)) kill(pid)
    },
  }
  t.after(() => sink.kill())
  return sink
}

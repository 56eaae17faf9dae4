/** A real box for tests: `beyond-pg start` in a folder and on ports of its own, ended and swept by pid whatever the test does. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Client, type ClientConfig } from 'pg'
import type { BoxFile } from '../../src/manage/box-file.ts'

export const beyondPg = fileURLToPath(new URL('../../src/beyond-pg.ts', import.meta.url))
const DEADLINE_MS = 60_000

export type Ports = { readonly pooler: number; readonly postgres: number; readonly quic: number }
export type Ended = { readonly code: number | null; readonly signal: string | null }

export class BoxProcess {
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
  stdout = ''
  stderr = ''
  #over = false

  constructor(args: readonly string[], options: { cwd?: string; env?: Record<string, string> } = {}) {
    const env = { ...process.env, ...options.env }
    // A group of its own, as a shell gives to each command.
    this.child = spawn(process.execPath, [beyondPg, ...args], { cwd: options.cwd, env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] })
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => (this.stdout += text))
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.stderr += text))
    this.ended = once(this.child, 'close').then(([code, signal]) => {
      this.#over = true
      return { code, signal } as Ended
    })
  }

  get pid(): number {
    return this.child.pid ?? 0
  }

  async ready(): Promise<BoxFile> {
    await until(() => this.stdout.includes('"ready"') || this.#over)
    if (!this.stdout.includes('"ready"')) throw new Error(`the box did not start:\n${this.stderr}`)
    return (JSON.parse(this.stdout.split('\n')[0]) as { box: BoxFile }).box
  }

  /** How often it said that it is ready: each upgrade says so again. */
  get readies(): number {
    return this.stdout.split('"ready"').length - 1
  }

  /** As the terminal does it: to the whole group. */
  signal(name: NodeJS.Signals): void {
    process.kill(-this.pid, name)
  }

  async stop(): Promise<Ended> {
    if (this.child.exitCode === null && this.child.signalCode === null) this.signal('SIGINT')
    return this.ended
  }
}

/** A folder that the account of Postgres can reach; when the test is over, everything that runs in it is ended and it is removed. */
export function temporaryFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'beyond-box-'))
  chmodSync(folder, 0o755)
  t.after(async () => {
    for (const pid of processesIn(folder)) kill(pid)
    await until(() => processesIn(folder).length === 0)
    rmSync(folder, { recursive: true, force: true })
  })
  return folder
}

export async function freePorts(): Promise<Ports> {
  const [pooler, postgres] = await Promise.all([freeTcpPort(), freeTcpPort()])
  return { pooler, postgres, quic: await freeUdpPort() }
}

export function startArguments(data: string, ports: Ports, ...more: string[]): string[] {
  const flags = [`--data=${data}`, `--port=${ports.pooler}`, `--postgres-port=${ports.postgres}`, `--quic-port=${ports.quic}`]
  return ['start', '--json', ...flags, ...more]
}

/** Starts a box without the change stream, and waits for it. */
export async function startBox(data: string, ports: Ports, ...more: string[]): Promise<{ box: BoxProcess; file: BoxFile }> {
  const box = new BoxProcess(startArguments(data, ports, '--no-cdc', ...more))
  return { box, file: await box.ready() }
}

/** Every process that names the folder in its arguments, or works in it. This process never does. */
export function processesIn(folder: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .map(Number)
    .filter((pid) => {
      try {
        if (/^\d+ \(.*\) [ZX] /s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))) return false
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(folder) || readlinkSync(`/proc/${pid}/cwd`).startsWith(folder)
      } catch {
        return false
      }
    })
}

export function kill(pid: number | undefined): void {
  if (pid === undefined) return
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // gone already
  }
}

/** Runs one query through the pooler, as the superuser unless told otherwise. */
export async function query(file: BoxFile, text: string, options: ClientConfig = {}): Promise<Record<string, unknown>[]> {
  const client = new Client({ ...file.pooler, user: 'postgres', password: superuserPassword(file), database: 'postgres', ...options })
  client.on('error', () => undefined)
  try {
    await client.connect()
    const result = await client.query(text)
    return (Array.isArray(result) ? result.at(-1) : result).rows as Record<string, unknown>[]
  } finally {
    await client.end().catch(() => undefined)
  }
}

export const superuserPassword = (file: BoxFile): string => readFileSync(join(file.secrets, 'postgres'), 'utf8').trim()

export async function until(condition: () => boolean | Promise<boolean>, deadlineMs = DEADLINE_MS): Promise<void> {
  for (const deadline = Date.now() + deadlineMs; !(await condition()); await sleep(20)) {
    if (Date.now() > deadline) throw new Error(`waited ${deadlineMs} ms in vain for ${String(condition)}`)
  }
}

async function freeTcpPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

async function freeUdpPort(): Promise<number> {
  const socket = createSocket('udp4')
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  const { port } = socket.address()
  socket.close()
  await once(socket, 'close')
  return port
}

/** A fork's own box as a process in the background: started, found again, ended. It needs none of us to go on. */
import { spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { Logger } from 'pino'
import { lockFile } from '../directory-lock.ts'
import { BeyondError, codeOf } from '../errors.ts'
import { readIfThere, writeFileAtomic } from './atomic-file.ts'
import { readRecord } from './child-process.ts'
import { type DatabaseAddress, sqlStateOf, withDatabase } from './database-client.ts'
import { type Fork, type ForkPorts, writeForkRecord } from './fork-place.ts'
import { areFree, findForkPorts } from './fork-ports.ts'
import { lookAtLayout, removeTemporarySockets } from './layout.ts'
import { Leftovers } from './leftovers.ts'
import { isAlive, type ProcessIdentity, signalProcess } from './process-identity.ts'
import { passwordFile } from './secrets.ts'

export type ForkState = 'running' | 'stopped'

const START_MS = 120_000
const STOP_MS = 75_000
const HURRY_MS = 15_000
const LOOK_AGAIN_MS = 20
const QUERY_MS = 5_000
const SETTINGS = 'settings.conf'

/** The box that supervises this directory now. */
export function supervisorOf(directory: string): ProcessIdentity | undefined {
  const record = readRecord(join(directory, 'run'), 'supervisor')
  return record && isAlive(record) ? record : undefined
}

export const stateOf = ({ path }: Fork): ForkState => (supervisorOf(path) ? 'running' : 'stopped')

/** Every setting of the fork, by key. Its operator may change them; the next start reads them. */
export function writeForkSettings(directory: string, settings: Readonly<Record<string, string>>): void {
  const lines = Object.entries(settings).map(([key, value]) => `${key}=${/^["']/.test(value) ? `'${value}'` : value}`) // the outer quotes are not the value's
  writeFileAtomic(join(directory, SETTINGS), ['# Settings of this fork: beyond-pg fork start reads them.', ...lines, ''].join('\n'), { mode: 0o600 })
}

export const portSettings = ({ pooler, postgres, quic }: ForkPorts): Readonly<Record<string, string>> => ({
  BEYOND_PG_PORT: String(pooler),
  BEYOND_PG_POSTGRES_PORT: String(postgres),
  BEYOND_PG_QUIC_PORT: String(quic),
})

/** Returns when a query gets through. `taken`: ports of other forks. Nothing is done where it runs already. */
export async function startFork(fork: Fork, taken: ReadonlySet<number>, environment: NodeJS.ProcessEnv, signal: AbortSignal): Promise<{ fork: Fork; did: 'started' | 'nothing' }> {
  const running = supervisorOf(fork.path)
  if (running) {
    await untilItAnswers(fork, () => !isAlive(running), undefined, signal)
    return { fork, did: 'nothing' }
  }
  const current = await withFreePorts(fork, taken)
  const args = [...process.execArgv, beyondPgProgram(), 'start', '--data', current.path, '--settings', join(current.path, SETTINGS)]
  // What it says later is in its log; that nobody listens any more does not disturb it.
  const child = spawn(process.execPath, args, { cwd: '/', env: withoutSettings(environment), detached: true, stdio: ['ignore', 'ignore', 'pipe'] })
  const said = new LastWords(child.stderr)
  let ended = false
  child.once('error', () => (ended = true))
  child.once('close', () => (ended = true))
  try {
    await untilItAnswers(current, () => ended, said, signal)
  } catch (error) {
    child.kill('SIGTERM') // half a start is none
    throw error
  } finally {
    child.unref()
    child.stderr.destroy()
  }
  return { fork: current, did: 'started' }
}

class LastWords {
  #text = ''

  constructor(stream: Readable) {
    stream.setEncoding('utf8').on('data', (text: string) => (this.#text = (this.#text + text).slice(-8_000)))
  }

  /** What it said when it gave up. */
  get sentence(): string | undefined {
    return this.#text.split('\n').findLast((line) => line.startsWith('beyond-pg: '))?.slice('beyond-pg: '.length)
  }
}

/** Its own password is the proof that it is this box which answers, and not another one on its port. */
async function untilItAnswers({ path, record }: Fork, hasEnded: () => boolean, said: LastWords | undefined, signal: AbortSignal): Promise<void> {
  const log = join(path, 'log', 'beyond-pg.log')
  const password = (readIfThere(passwordFile(join(path, 'secrets'), 'postgres')) ?? '').trim()
  const address = { host: '127.0.0.1', port: record.ports.pooler, user: 'postgres', password, database: 'postgres' }
  for (const deadline = Date.now() + START_MS; Date.now() < deadline; await sleep(LOOK_AGAIN_MS, undefined, { signal })) {
    if (hasEnded()) throw new BeyondError('CHILD_FAILED', `The fork in ${path} did not start: ${said?.sentence ?? `${log} says why.`}`)
    if (await answers(address)) return
  }
  throw new BeyondError('TIMEOUT', `The fork in ${path} does not answer on port ${record.ports.pooler} after ${START_MS / 1000} s: ${log} says why.`)
}

/** Its operator may have given its superuser another password: a refusal is an answer then. */
async function answers(address: DatabaseAddress): Promise<boolean> {
  try {
    await withDatabase(address, QUERY_MS, (client) => client.query('SELECT 1'))
    return true
  } catch (error) {
    return sqlStateOf(error) === '28P01'
  }
}

/** Ports are kept, unless another program has one now. */
async function withFreePorts(fork: Fork, taken: ReadonlySet<number>): Promise<Fork> {
  if (await areFree(fork.record.ports)) return fork
  if (hasOrphans(join(fork.path, 'run'))) return fork // they have them
  const ports = await findForkPorts(taken, Math.random())
  const record = { ...fork.record, ports }
  const own = Object.entries(portSettings(ports))
  const settings = readFileSync(join(fork.path, SETTINGS), 'utf8')
  const changed = own.reduce((text, [key, value]) => text.replace(new RegExp(`^${key}=.*$`, 'm'), `${key}=${value}`), settings)
  writeFileAtomic(join(fork.path, SETTINGS), changed, { mode: 0o600 })
  writeForkRecord(fork.path, record)
  return { path: fork.path, record }
}

/** Children that outlived their supervisor. */
function hasOrphans(run: string): boolean {
  return existsSync(run) && readdirSync(run).some((file) => {
    const record = file.endsWith('.json') ? readRecord(run, file.slice(0, -'.json'.length)) : undefined
    return record !== undefined && isAlive(record)
  })
}

/** Ends it in order, bounded in time; nothing is done where it does not run. */
export async function stopFork({ path }: Fork, logger: Logger, signal: AbortSignal): Promise<'stopped' | 'nothing'> {
  const supervisor = supervisorOf(path)
  if (supervisor) {
    signalProcess(supervisor, 'SIGTERM')
    if (!(await hasEnded(supervisor, STOP_MS, signal))) {
      signalProcess(supervisor, 'SIGTERM') // a second time: it hurries
      if (!(await hasEnded(supervisor, HURRY_MS, signal))) {
        throw new BeyondError('TIMEOUT', `The fork in ${path} (process ${supervisor.pid}) does not stop: ${join(path, 'log')} says why; end it by hand.`, { facts: { pid: supervisor.pid } })
      }
    }
    return 'stopped'
  }
  return (await endOrphans(path, logger, signal)) ? 'stopped' : 'nothing'
}

async function hasEnded(target: ProcessIdentity, withinMs: number, signal: AbortSignal): Promise<boolean> {
  for (const deadline = Date.now() + withinMs; isAlive(target); await sleep(LOOK_AGAIN_MS, undefined, { signal })) {
    if (Date.now() > deadline) return false
  }
  return true
}

/** Children whose supervisor was killed. */
async function endOrphans(path: string, logger: Logger, signal: AbortSignal): Promise<boolean> {
  const { layout, missing } = lookAtLayout(path)
  if (missing.includes(layout.run) || missing.includes(layout.sockets)) return false // it was never started
  try {
    using _lock = lockFile(layout.lock, 'locked')
    const leftovers = await Leftovers.find(layout, logger, signal)
    const some = leftovers.names.length > 0
    await leftovers.endRest(signal)
    removeTemporarySockets(layout)
    return some
  } catch (error) {
    if (codeOf(error) === 'LOCKED') return false // it is being started
    throw error
  }
}

/** The settings of whoever calls us are another box's; where programs are, they know better than our file. */
function withoutSettings(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const isOurs = (key: string): boolean => key.startsWith('BEYOND_') && !['BEYOND_PG_BINDIR', 'BEYOND_PGBOUNCER'].includes(key)
  return Object.fromEntries(Object.entries(environment).filter(([key]) => !isOurs(key)))
}

// Beside us in the tree, and with our own ending: .ts in a checkout, .js when compiled.
const beyondPgProgram = (): string => fileURLToPath(new URL(`../beyond-pg${import.meta.url.slice(-3)}`, import.meta.url))

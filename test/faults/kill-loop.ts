/**
 * Kills the CDC service, Postgres, both, and a subscriber with SIGKILL at random moments while writers keep the
 * database busy; at the end the subscriber's record has to be what was committed, each change once, in commit order.
 *
 *     node test/faults/kill-loop.ts --rounds 500 --seed 42
 *
 * The seed decides about faults, moments and statements; the operating system about the rest.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, fstatSync, openSync, readFileSync, readSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { inspect, parseArgs } from 'node:util'
import { connect } from '../../src/transport/client.ts'
import { startCdc, type TestCdc } from '../support/cdc.ts'
import { startPostgres, until, type TestPostgres } from '../support/postgres.ts'
import { Random, testSeed } from '../support/random.ts'
import { Load, SCHEMA } from './load.ts'
import type { SubscriberConfig } from './subscriber.ts'
import { verify, type Verdict } from './verify.ts'

const FAULTS = ['service', 'postgres', 'both', 'subscriber', 'everything', 'service twice', 'service stopped'] as const
export type Fault = (typeof FAULTS)[number]

export type KillLoopOptions = {
  readonly rounds: number
  readonly seed: number
  readonly writers?: number
  readonly onRound?: (round: number, fault: Fault, moment: number) => void
}
export type KillLoopResult = Verdict & { readonly seconds: number; readonly faults: Readonly<Record<string, number>> }

/** The subscriber may be far behind when the last fault is over: it has to get on, however slow the machine. */
const STANDSTILL_MS = 45_000
const MAX_MOMENT_MS = 1_200

export async function killLoop(options: KillLoopOptions): Promise<KillLoopResult> {
  const began = performance.now()
  const random = new Random(options.seed)
  // Slots go to disk at checkpoints: frequent ones give crashes a choice of old positions.
  await using postgres = await startPostgres({ max_wal_size: '64MB', checkpoint_timeout: '30s' })
  await postgres.query(SCHEMA)
  await using cdc = await startCdc(postgres, ['--heartbeat', '200', '--idle-mark', '50', '--segment-bytes', '4MB', '--keep-bytes', '10GB'])
  const record = join(postgres.directory, 'record')
  await using subscriber = new Subscriber({ connect: cdc.connect, record }, join(postgres.directory, 'subscriber.log'))
  subscriber.start()
  const load = new Load(postgres, options.writers ?? 3, options.seed)
  const faults: Record<string, number> = {}
  try {
    for (let round = 1; round <= options.rounds; round++) {
      const fault = random.pick(FAULTS)
      // Some come while all is still recovering from the one before.
      const moment = random.chance(0.3) ? random.integer(0, 50) : random.integer(50, MAX_MOMENT_MS)
      await sleep(moment)
      options.onRound?.(round, fault, moment)
      await strike(fault, { postgres, cdc, subscriber, random })
      subscriber.check()
      faults[fault] = (faults[fault] ?? 0) + 1
    }
  } finally {
    await load.stop()
  }
  await postgres.query("SELECT pg_logical_emit_message(false, 'outside', 'the end', true)")
  let size = 0
  let grewAt = performance.now()
  await until(
    'the subscriber has everything',
    () => {
      subscriber.check()
      const now = statSync(record).size
      if (now > size) grewAt = performance.now()
      size = now
      if (performance.now() - grewAt > STANDSTILL_MS) throw new Error(`the subscriber's record has not grown for ${STANDSTILL_MS} ms`)
      if (!cdc.running) throw new Error(`the service has ended: ${cdc.log().slice(-4000)}`)
      return tailOf(record).includes('"content":"the end"')
    },
    Infinity,
  ).catch(async (error: unknown) => {
    throw new Error(`${String(error)}\n${await situation(postgres, cdc, record)}\nservice: ${cdc.log().slice(-4000)}`)
  })
  await subscriber.stop()
  const verdict = await verify(postgres, record, [...load.messages, 'the end'])
  return { ...verdict, seconds: (performance.now() - began) / 1000, faults }
}

/** Its last bytes: records grow to hundreds of megabytes. */
function tailOf(path: string): string {
  const file = openSync(path, 'r')
  const tail = Buffer.alloc(4096)
  const { size } = fstatSync(file)
  const length = readSync(file, tail, 0, tail.length, Math.max(0, size - tail.length))
  closeSync(file)
  return tail.toString('latin1', 0, length)
}

/** What a person wants to know when nothing moves. */
async function situation(postgres: TestPostgres, cdc: TestCdc, record: string): Promise<string> {
  await using client = connect(cdc.connect)
  const status = await client.status().catch(String)
  const slots = await postgres.query('SELECT pg_current_wal_lsn(), active_pid, restart_lsn, confirmed_flush_lsn FROM pg_replication_slots').catch(String)
  const senders = await postgres.query('SELECT pid, state, sent_lsn, write_lsn, reply_time FROM pg_stat_replication').catch(String)
  return inspect({ status, slots, senders, recordBytes: statSync(record).size, recordWritten: statSync(record).mtime }, { depth: 6 })
}

type Victims = { readonly postgres: TestPostgres; readonly cdc: TestCdc; readonly subscriber: Subscriber; readonly random: Random }

async function strike(fault: Fault, { postgres, cdc, subscriber, random }: Victims): Promise<void> {
  switch (fault) {
    case 'service':
      await cdc.stop('SIGKILL')
      return cdc.start()
    case 'postgres':
      await postgres.stop('SIGKILL')
      return postgres.start()
    case 'both':
      await Promise.all([cdc.stop('SIGKILL'), postgres.stop('SIGKILL')])
      // The service may come first and wait for its database.
      if (random.chance(0.5)) {
        await Promise.all([cdc.start(), postgres.start()])
        return
      }
      await postgres.start()
      return cdc.start()
    case 'subscriber':
      await subscriber.kill()
      return subscriber.start()
    case 'everything':
      await Promise.all([cdc.stop('SIGKILL'), postgres.stop('SIGKILL'), subscriber.kill()])
      await Promise.all([cdc.start(), postgres.start()])
      return subscriber.start()
    case 'service twice': {
      await cdc.stop('SIGKILL')
      const starting = cdc.start().catch(() => {})
      await sleep(random.integer(0, 700))
      await cdc.stop('SIGKILL')
      await starting
      return cdc.start()
    }
    case 'service stopped':
      // Asked politely, and killed if it takes longer than it should.
      if ((await cdc.stop('SIGTERM')) !== 0) throw new Error(`the service did not end well: ${cdc.log().slice(-4000)}`)
      return cdc.start()
  }
}

/** The child process that keeps the record. */
class Subscriber implements AsyncDisposable {
  readonly #config: SubscriberConfig
  readonly #log: string
  #child: ChildProcess | undefined
  #failure: string | undefined

  constructor(config: SubscriberConfig, log: string) {
    this.#config = config
    this.#log = log
  }

  start(): void {
    const log = openSync(this.#log, 'a')
    const program = fileURLToPath(new URL('subscriber.ts', import.meta.url))
    const child = spawn(process.execPath, [program, JSON.stringify(this.#config)], { stdio: ['ignore', log, log] })
    closeSync(log)
    this.#child = child
    child.once('exit', (code, signal) => {
      if (signal !== 'SIGKILL' && code !== 0) this.#failure = `the subscriber ended with ${code ?? signal}: ${readFileSync(this.#log, 'utf8').slice(-4000)}`
    })
  }

  /** Throws when it has ended by itself. */
  check(): void {
    if (this.#failure !== undefined) throw new Error(this.#failure)
  }

  kill(): Promise<void> {
    return this.#end('SIGKILL')
  }

  async stop(): Promise<void> {
    await this.#end('SIGTERM')
    this.check()
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise((resolve) => child.once('exit', resolve))
    child.kill(signal)
    await gone
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill()
  }
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { rounds: { type: 'string', default: '20' }, seed: { type: 'string', default: String(testSeed) }, writers: { type: 'string', default: '3' } } })
  const seed = Number(values.seed)
  console.log(`seed ${seed}`)
  const result = await killLoop({
    rounds: Number(values.rounds),
    seed,
    writers: Number(values.writers),
    onRound: (round, fault, moment) => console.log(`${(performance.now() / 1000).toFixed(1)} round ${round}: ${fault} after ${moment} ms`),
  })
  console.log(JSON.stringify(result))
}

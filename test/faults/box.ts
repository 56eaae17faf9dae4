/**
 * Kills any child of a box, its supervisor, or several of them with SIGKILL at random moments, while pgbench and writers of our own work
 * through the pooler. After each round everything serves again; at the end every transaction that was acknowledged is there, once, and
 * the books of pgbench balance.
 *
 *     node test/faults/box.ts --rounds 100 --seed 42
 */
import assert from 'node:assert/strict'
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Client } from 'pg'
import type { BoxFile } from '../../src/manage/box-file.ts'
import { BoxProcess, freePorts, kill, processesIn, query, startArguments, superuserPassword, until } from '../manage/box-process.ts'
import { Pgbench, preparePgbench } from '../support/pgbench.ts'
import { Random, testSeed } from '../support/random.ts'

const FAULTS = ['supervisor', 'postgres', 'pooler', 'cdc', 'a backend', 'supervisor and postgres', 'supervisor and pooler', 'supervisor twice', 'upgrade', 'everything'] as const
export type BoxFault = (typeof FAULTS)[number]

export type BoxRoundsOptions = {
  readonly rounds: number
  readonly seed: number
  readonly writers?: number
  readonly flags?: readonly string[]
  readonly onRound?: (round: number, fault: BoxFault, servedAgainAfterMs: number) => void
}
export type BoxRoundsResult = { readonly acknowledged: number; readonly faults: Readonly<Record<string, number>>; readonly seconds: number; readonly slowestMs: number }

export async function boxRounds({ rounds, seed, writers = 4, flags = [], onRound }: BoxRoundsOptions): Promise<BoxRoundsResult> {
  const began = performance.now()
  const random = new Random(seed)
  const folder = mkdtempSync(join(tmpdir(), 'beyond-box-'))
  chmodSync(folder, 0o755)
  const data = join(folder, 'box')
  const args = startArguments(data, await freePorts(), ...flags)
  const victims = new Victims(data, args)
  const load = new AbortController()
  try {
    const file = await victims.box.ready()
    const target = { ...file.pooler, user: 'postgres', password: superuserPassword(file), database: 'postgres' }
    preparePgbench(target, 1)
    await query(file, 'CREATE TABLE acknowledged (writer int, k int, PRIMARY KEY (writer, k))')
    const books = Array.from({ length: writers }, (_value, writer) => write(file, writer, load.signal))
    const bench = benchAgain(target, load.signal)
    const faults: Record<string, number> = {}
    let slowestMs = 0
    for (let round = 1; round <= rounds; round++) {
      const fault = random.pick(FAULTS.filter((name) => name !== 'cdc' || !flags.includes('--no-cdc')))
      // Some come while all is still recovering from the one before.
      await sleep(random.chance(0.3) ? 0 : random.integer(50, 800))
      const struck = performance.now()
      await victims.strike(fault, file, random)
      await until(() => serves(file))
      await until(() => flags.includes('--no-cdc') || victims.pid('cdc') !== undefined)
      slowestMs = Math.max(slowestMs, performance.now() - struck)
      faults[fault] = (faults[fault] ?? 0) + 1
      onRound?.(round, fault, performance.now() - struck)
    }
    load.abort()
    const counts = await Promise.all(books)
    await bench
    for (const [writer, { certain, last }] of counts.entries()) {
      const [{ n, max }] = await query(file, `SELECT count(*)::int AS n, max(k) FROM acknowledged WHERE writer = ${writer}`)
      const missing = await query(file, `SELECT k FROM generate_series(1, ${last}) k WHERE k NOT IN (SELECT k FROM acknowledged WHERE writer = ${writer})`)
      const lost = missing.map((row) => Number(row['k'])).filter((k) => certain.has(k))
      assert.deepEqual(lost, [], `writer ${writer} lost what was acknowledged`)
      assert.ok(Number(n) >= certain.size && Number(max ?? 0) <= last)
    }
    const [books2] = await query(
      file,
      `SELECT (SELECT sum(bbalance) FROM pgbench_branches)::text AS b, (SELECT sum(tbalance) FROM pgbench_tellers)::text AS t,
         (SELECT sum(abalance) FROM pgbench_accounts)::text AS a, (SELECT coalesce(sum(delta), 0) FROM pgbench_history)::text AS h`,
    )
    assert.equal(new Set(Object.values(books2)).size, 1, `the books of pgbench don't balance: ${JSON.stringify(books2)}`)
    assert.deepEqual(await victims.box.stop(), { code: 0, signal: null })
    assert.deepEqual(processesIn(folder), [])
    const acknowledged = counts.reduce((sum, { certain }) => sum + certain.size, 0)
    assert.ok(acknowledged > 0)
    return { acknowledged, faults, seconds: (performance.now() - began) / 1000, slowestMs }
  } catch (error) {
    throw new Error(`${String(error)}\n${victims.box.stderr.slice(-6_000)}`, { cause: error })
  } finally {
    load.abort()
    for (const pid of processesIn(folder)) kill(pid)
    await until(() => processesIn(folder).length === 0)
    rmSync(folder, { recursive: true, force: true })
  }
}

class Victims {
  box: BoxProcess
  readonly #data: string
  readonly #args: readonly string[]

  constructor(data: string, args: readonly string[]) {
    this.#data = data
    this.#args = args
    this.box = new BoxProcess(args)
  }

  /** Undefined while it is down. */
  pid(name: string): number | undefined {
    const path = join(this.#data, 'run', `${name}.json`)
    try {
      return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as { pid: number } | null)?.pid : undefined
    } catch {
      return undefined // just being written or removed
    }
  }

  async strike(fault: BoxFault, file: BoxFile, random: Random): Promise<void> {
    switch (fault) {
      case 'postgres':
      case 'cdc':
        return kill(this.pid(fault))
      case 'pooler':
        return this.#killPoolers()
      case 'a backend': {
        const rows = await query(file, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()").catch(() => [])
        if (rows.length > 0) kill(Number(random.pick(rows)['pid'])) // Postgres restarts all of its backends for it
        return
      }
      case 'upgrade': {
        const readies = this.box.readies
        this.box.child.kill('SIGUSR2')
        return until(() => this.box.readies > readies)
      }
      case 'supervisor':
        await this.#killSupervisor()
        break
      case 'supervisor and postgres':
        kill(this.pid('postgres'))
        await this.#killSupervisor()
        break
      case 'supervisor and pooler':
        await this.#killSupervisor()
        this.#killPoolers()
        break
      case 'supervisor twice': {
        await this.#killSupervisor()
        this.box = new BoxProcess(this.#args)
        await sleep(random.integer(0, 1_500)) // anywhere in its boot
        await this.#killSupervisor()
        break
      }
      case 'everything':
        for (const pid of processesIn(this.#data)) kill(pid)
        await this.box.ended
        break
    }
    this.box = new BoxProcess(this.#args)
    await this.box.ready()
  }

  #killPoolers(): void {
    const names = readdirSync(join(this.#data, 'run')).filter((name) => /^pgbouncer(-\d+)?\.json$/.test(name))
    for (const name of names) kill(this.pid(name.slice(0, -5)))
  }

  async #killSupervisor(): Promise<void> {
    this.box.child.kill('SIGKILL')
    await this.box.ended
  }
}

const serves = (file: BoxFile): Promise<boolean> => query(file, 'SELECT count(*) FROM acknowledged').then(() => true, () => false)

type Book = { readonly certain: ReadonlySet<number>; readonly last: number }

/** One row by one, each certain from the moment its commit was answered. */
async function write(file: BoxFile, writer: number, signal: AbortSignal): Promise<Book> {
  const certain = new Set<number>()
  let last = 0
  while (!signal.aborted) {
    const client = new Client({ ...file.pooler, user: 'postgres', password: superuserPassword(file), database: 'postgres', connectionTimeoutMillis: 5_000, query_timeout: 30_000 })
    client.on('error', () => undefined)
    try {
      await client.connect()
      while (!signal.aborted) {
        last++
        await client.query('INSERT INTO acknowledged VALUES ($1, $2)', [writer, last])
        certain.add(last)
        await sleep(2)
      }
    } catch {
      await sleep(20)
    } finally {
      void client.end().catch(() => undefined)
    }
  }
  return { certain, last }
}

/** pgbench gives up with its connections; then another one begins. */
async function benchAgain(target: ConstructorParameters<typeof Pgbench>[0], signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await using bench = new Pgbench(target, 4)
    while (!signal.aborted && !bench.result().failures.includes('pgbench has ended by itself')) await sleep(100)
    if (!signal.aborted) await sleep(200)
  }
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { rounds: { type: 'string', default: '100' }, seed: { type: 'string', default: String(testSeed) } } })
  const seed = Number(values.seed)
  console.log(`seed ${seed}`)
  const result = await boxRounds({
    rounds: Number(values.rounds),
    seed,
    onRound: (round, fault, milliseconds) => console.log(`round ${round}: ${fault}, serves again after ${Math.round(milliseconds)} ms`),
  })
  console.log(`${result.acknowledged} acknowledged transactions, all there, in ${Math.round(result.seconds)} s; slowest round ${Math.round(result.slowestMs)} ms`, result.faults)
}

/**
 * How long a fork takes, and what its source notices: a box of `--size` in a folder, written to by pgbench through its pooler, is forked
 * while one connection asks `SELECT 1` and another commits a row, as fast as they are answered. Time is from the command to the first
 * answer of the fork. `--in DIR` says where, so that its file system is what is measured; a subvolume of btrfs is made there if it can be.
 *
 *     node bench/fork.ts --in /mnt/btrfs --size 1GB --rounds 3
 */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { Client, type ClientConfig } from 'pg'
import { beyondPg, BoxProcess, freePorts, kill, processesIn, query, startArguments, superuserPassword, until } from '../test/manage/box-process.ts'
import { Pgbench, preparePgbench } from '../test/support/pgbench.ts'

const { values } = parseArgs({
  options: { in: { type: 'string', default: tmpdir() }, size: { type: 'string', default: '1GB' }, rounds: { type: 'string', default: '3' }, clients: { type: 'string', default: '4' }, json: { type: 'boolean' } },
})
const megabytes = sizeOf(values.size)
/** A unit of pgbench's scale is 15 MB of tables and indexes. */
const scale = Math.max(1, Math.round(megabytes / 15))

type Round = { readonly method: string; readonly madeMs: number; readonly firstQueryMs: number; readonly readStallMs: number; readonly commitStallMs: number }

const folder = join(resolve(values.in), `bench-fork-${process.pid}`)
mkdirSync(folder, { mode: 0o755 })
chmodSync(folder, 0o755)
const data = join(folder, 'source')
try {
  if (spawnSync('btrfs', ['subvolume', 'create', data]).status === 0) chmodSync(data, 0o700)
  const box = new BoxProcess(startArguments(data, await freePorts(), '--no-cdc'))
  const file = await box.ready()
  const target = { ...file.pooler, user: 'postgres', password: superuserPassword(file), database: 'postgres' }
  say(`filling ${values.size}`)
  preparePgbench(target, scale)
  const [{ size }] = await query(file, 'SELECT pg_size_pretty(sum(pg_database_size(oid))) AS size FROM pg_database')
  await query(file, 'CREATE TABLE probe (at timestamptz)')
  const rounds: Round[] = []
  const still = await watched(target, 10_000)
  {
    await using bench = new Pgbench(target, Number(values.clients))
    await until(() => bench.result().rates.length > 3)
    const busy = await watched(target, 10_000)
    say(`${String(size)}; longest answer without a fork: ${show(still)}; under load: ${show(busy)}`)
    for (let n = 1; n <= Number(values.rounds); n++) {
      rounds.push(await round(target, `bench${n}`))
      say(JSON.stringify(rounds.at(-1)))
      command('remove', `bench${n}`)
    }
    say(`pgbench: ${bench.result().rates.slice(-20).join(' ')} tps; failures: ${bench.result().failures.length}`)
  }
  process.stdout.write(values.json ? `${JSON.stringify({ size, rounds })}\n` : rounds.map((one, n) => `${n + 1}  ${text(one)}\n`).join(''))
  await box.stop()
} finally {
  for (const pid of processesIn(folder)) kill(pid)
  await until(() => processesIn(folder).length === 0)
  rmSync(folder, { recursive: true, force: true })
}

async function round(target: ClientConfig, name: string): Promise<Round> {
  const over = new AbortController()
  const watching = watched(target, 600_000, over.signal)
  const began = performance.now()
  const child = spawn(process.execPath, [beyondPg, 'fork', name, '--data', data, '--json'], { stdio: ['ignore', 'pipe', 'inherit'] })
  let said = ''
  child.stdout.setEncoding('utf8').on('data', (part: string) => (said += part))
  await once(child, 'close')
  const firstQueryMs = Math.round(performance.now() - began)
  over.abort()
  const stalls = await watching
  const { method, madeMs } = JSON.parse(said) as { method: string; madeMs: number }
  return { method, madeMs, firstQueryMs, ...stalls }
}

/** The longest that a read and a commit waited, in milliseconds. */
async function watched(target: ClientConfig, ms: number, signal?: AbortSignal): Promise<{ readStallMs: number; commitStallMs: number }> {
  const deadline = performance.now() + ms
  const longest = async (statement: string): Promise<number> => {
    const client = new Client(target)
    await client.connect()
    let worst = 0
    while (performance.now() < deadline && !signal?.aborted) {
      const began = performance.now()
      await client.query(statement)
      worst = Math.max(worst, performance.now() - began)
    }
    await client.end()
    return Math.round(worst)
  }
  const [readStallMs, commitStallMs] = await Promise.all([longest('SELECT 1'), longest('INSERT INTO probe VALUES (now())')])
  return { readStallMs, commitStallMs }
}

function command(...args: string[]): void {
  spawnSync(process.execPath, [beyondPg, 'fork', ...args, '--data', data], { stdio: ['ignore', 'ignore', 'inherit'] })
}

function sizeOf(text: string): number {
  const [, digits, unit] = /^(\d+)(MB|GB)$/.exec(text) ?? []
  if (digits === undefined) throw new Error('--size must be such as 200MB or 1GB')
  return Number(digits) * (unit === 'GB' ? 1024 : 1)
}

function say(line: string): void {
  process.stderr.write(`${line}\n`)
}

function show({ readStallMs, commitStallMs }: { readStallMs: number; commitStallMs: number }): string {
  return `read ${readStallMs} ms, commit ${commitStallMs} ms`
}

function text({ method, madeMs, firstQueryMs, ...stalls }: Round): string {
  return `${method}: made in ${madeMs} ms, first query after ${firstQueryMs} ms; longest answer of the source meanwhile: ${show(stalls)}`
}

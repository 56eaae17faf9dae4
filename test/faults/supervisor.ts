/**
 * Kills the supervisor of a box with SIGKILL and starts it again, or upgrades it, in turn at random, while pgbench works through the
 * pooler with 20 clients: no query may fail and no child may be started again.
 *
 *     node test/faults/supervisor.ts --rounds 20 --seed 7
 */
import assert from 'node:assert/strict'
import { mkdtempSync, chmodSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { BoxProcess, freePorts, kill, processesIn, startArguments, superuserPassword, until } from '../manage/box-process.ts'
import { type BenchResult, Pgbench, preparePgbench } from '../support/pgbench.ts'
import { Random, testSeed } from '../support/random.ts'

export type SupervisorOptions = {
  readonly rounds: number
  readonly seed: number
  readonly clients?: number
  readonly flags?: readonly string[]
  /** Transactions per second; undefined: as many as there can be. */
  readonly rate?: number
  readonly onRound?: (round: number, fault: 'kill' | 'upgrade', milliseconds: number) => void
}

export type SupervisorResult = BenchResult & { readonly kills: number; readonly upgrades: number; readonly rssMb: number }

export async function supervisorRounds({ rounds, seed, clients = 20, flags = [], rate, onRound }: SupervisorOptions): Promise<SupervisorResult> {
  const random = new Random(seed)
  const folder = mkdtempSync(join(tmpdir(), 'beyond-box-'))
  chmodSync(folder, 0o755)
  const data = join(folder, 'box')
  const args = startArguments(data, await freePorts(), ...flags)
  let box = new BoxProcess(args)
  try {
    const file = await box.ready()
    const target = { ...file.pooler, user: 'postgres', password: superuserPassword(file), database: 'postgres' }
    preparePgbench(target, 1)
    const before = childPids(data)
    assert.ok(before['postgres'] && Object.keys(before).length >= 2)
    await using bench = new Pgbench(target, clients, ...(rate === undefined ? [] : [`--rate=${rate}`]))
    await until(() => bench.result().rates.length >= 1)
    const count = { kill: 0, upgrade: 0 }
    for (let round = 1; round <= rounds; round++) {
      await sleep(random.integer(0, 400))
      // Both kinds also in the shortest run.
      const fault = round === 1 ? 'kill' : round === 2 ? 'upgrade' : random.pick(['kill', 'upgrade'] as const)
      const began = performance.now()
      if (fault === 'kill') {
        box.child.kill('SIGKILL')
        await box.ended
        box = new BoxProcess(args)
        await box.ready()
      } else {
        const readies = box.readies
        box.child.kill('SIGUSR2')
        await until(() => box.readies > readies)
      }
      count[fault]++
      onRound?.(round, fault, performance.now() - began)
      assert.deepEqual(childPids(data), before, `a child was started again in round ${round} (${fault})`)
      assert.deepEqual(bench.result().failures, [], `round ${round} (${fault})`)
    }
    const seen = bench.result().rates.length
    await until(() => bench.result().rates.length > seen) // it goes on
    const result = await bench.stop()
    assert.deepEqual(result.failures, [])
    const rssMb = Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${box.pid}/status`, 'utf8'))?.[1]) / 1024
    assert.deepEqual(await box.stop(), { code: 0, signal: null })
    assert.deepEqual(processesIn(folder), [])
    return { ...result, kills: count.kill, upgrades: count.upgrade, rssMb }
  } catch (error) {
    throw new Error(`${String(error)}\n${box.stderr.slice(-4_000)}`, { cause: error })
  } finally {
    for (const pid of processesIn(folder)) kill(pid)
    await until(() => processesIn(folder).length === 0)
    rmSync(folder, { recursive: true, force: true })
  }
}

/** By name, as recorded; none is missing as long as it runs. */
function childPids(data: string): Record<string, number> {
  const run = join(data, 'run')
  const names = readdirSync(run).filter((name) => name.endsWith('.json') && name !== 'supervisor.json')
  return Object.fromEntries(names.map((name) => [name.slice(0, -5), (JSON.parse(readFileSync(join(run, name), 'utf8')) as { pid: number }).pid]))
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { rounds: { type: 'string', default: '20' }, seed: { type: 'string', default: String(testSeed) } } })
  const seed = Number(values.seed)
  console.log(`seed ${seed}`)
  const result = await supervisorRounds({
    rounds: Number(values.rounds),
    seed,
    onRound: (round, fault, milliseconds) => console.log(`round ${round}: ${fault}, ready again after ${Math.round(milliseconds)} ms`),
  })
  const rates = result.rates.slice(1)
  console.log(`${result.kills} kills, ${result.upgrades} upgrades in ${Math.round(result.seconds)} s: no failed query, no child started again`)
  console.log(`transactions per second: least ${Math.min(...rates)}, most ${Math.max(...rates)}; supervisor ${Math.round(result.rssMb)} MB`)
}

/**
 * Changes the memory of a box again and again, so that it restarts its Postgres, while pgbench works through the pooler with 10 clients:
 * no query may fail. The change stream runs, too, and has to go on.
 *
 *     node test/faults/retune.ts --rounds 10
 */
import assert from 'node:assert/strict'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { call, socketPath } from '../../src/manage/rpc-client.ts'
import type { ScaleReport } from '../../src/manage/scale.ts'
import { BoxProcess, freePorts, kill, processesIn, query, startArguments, superuserPassword, until } from '../manage/box-process.ts'
import { Pgbench, preparePgbench } from '../support/pgbench.ts'

export type RetuneLoadOptions = {
  readonly rounds: number
  readonly clients?: number
  readonly flags?: readonly string[]
  /** Transactions per second; undefined: as many as there can be. */
  readonly rate?: number
  readonly onRound?: (round: number, stallMs: number, sharedBuffers: string) => void
}

export type RetuneLoadResult = {
  /** From PAUSE to RESUME. */
  readonly stallsMs: readonly number[]
  /** As a client saw it. */
  readonly longestMs: number
  readonly transactions: number
  readonly seconds: number
}

const SIZES = [
  { memoryMb: 3072, sharedBuffers: '768MB' },
  { memoryMb: 2048, sharedBuffers: '512MB' },
]
/** pgbench waits for each statement that it prepares, with all clients of a thread: each needs a connection to Postgres of its own. */
const settingsText = (memoryMb: number): string => `BEYOND_PG_MEMORY_MB=${memoryMb}\nBEYOND_PG_POOLER_WORKERS=1\n`

export async function retuneUnderLoad({ rounds, clients = 10, flags = [], rate, onRound }: RetuneLoadOptions): Promise<RetuneLoadResult> {
  const folder = mkdtempSync(join(tmpdir(), 'beyond-retune-'))
  chmodSync(folder, 0o755)
  const data = join(folder, 'box')
  const settings = join(folder, 'settings')
  const logs = join(folder, 'pgbench')
  writeFileSync(settings, settingsText(2048))
  const box = new BoxProcess(startArguments(data, await freePorts(), `--settings=${settings}`, ...flags))
  try {
    const file = await box.ready()
    const target = { ...file.pooler, user: 'postgres', password: superuserPassword(file), database: 'postgres' }
    preparePgbench(target, 2)
    await using bench = new Pgbench(target, clients, '-M', 'prepared', '--log', `--log-prefix=${logs}`, ...(rate === undefined ? [] : [`--rate=${rate}`]))
    await until(() => bench.result().rates.length > 0)
    const stallsMs: number[] = []
    for (let round = 1; round <= rounds; round++) {
      const { memoryMb, sharedBuffers } = SIZES[(round - 1) % SIZES.length]
      writeFileSync(settings, settingsText(memoryMb))
      await call(socketPath(data), 'reload')
      const { outcome, stallMs = 0, reason } = (await call(socketPath(data), 'retune')) as ScaleReport
      assert.equal(outcome, 'restarted', reason ?? '')
      assert.deepEqual(await query(file, 'SHOW shared_buffers'), [{ shared_buffers: sharedBuffers }])
      stallsMs.push(stallMs)
      onRound?.(round, stallMs, sharedBuffers)
      const seen = bench.result().rates.length
      await until(() => bench.result().rates.length > seen + 1) // it goes on
      assert.deepEqual(bench.result().failures, [], `round ${round}`)
    }
    const { seconds } = await bench.stop()
    assert.deepEqual(await box.stop(), { code: 0, signal: null })
    const latencies = readdirSync(folder).filter((name) => name.startsWith('pgbench.')).flatMap((name) => latenciesIn(join(folder, name)))
    return { stallsMs, longestMs: Math.round(latencies.reduce((a, b) => Math.max(a, b), 0)), transactions: latencies.length, seconds }
  } catch (error) {
    throw new Error(`${String(error)}\n${box.stderr.slice(-12_000)}`, { cause: error })
  } finally {
    for (const pid of processesIn(folder)) kill(pid)
    await until(() => processesIn(folder).length === 0)
    rmSync(folder, { recursive: true, force: true })
  }
}

/** In milliseconds. With a rate pgbench counts from when a transaction was due. The last line may be cut off. */
function latenciesIn(path: string): readonly number[] {
  const lines = readFileSync(path, 'utf8').split('\n').slice(0, -1)
  return lines.map((line) => Number(line.split(' ')[2]) / 1000).filter((value) => !Number.isNaN(value))
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { rounds: { type: 'string', default: '10' }, clients: { type: 'string', default: '10' } } })
  const result = await retuneUnderLoad({
    rounds: Number(values.rounds),
    clients: Number(values.clients),
    onRound: (round, stallMs, sharedBuffers) => console.log(`retune ${round}: shared_buffers ${sharedBuffers}, ${stallMs} ms from PAUSE to RESUME`),
  })
  console.log(`${result.stallsMs.length} retunes, ${result.transactions} transactions in ${Math.round(result.seconds)} s, no failed query`)
  console.log(`longest stall ${Math.max(...result.stallsMs)} ms; longest transaction ${result.longestMs} ms`)
}

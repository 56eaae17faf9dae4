/**
 * Restarts Postgres for a new tuning again and again, while pgbench works through the pooler with 10 clients: no query may fail.
 *
 *     node test/faults/retune.ts --rounds 10
 */
import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Pgbench, preparePgbench } from '../support/pgbench.ts'
import { until } from '../support/postgres.ts'
import { startRetuned } from '../support/retuned.ts'

const MB = 2 ** 20

export type RetuneLoadOptions = {
  readonly rounds: number
  readonly clients?: number
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

export async function retuneUnderLoad({ rounds, clients = 10, rate, onRound }: RetuneLoadOptions): Promise<RetuneLoadResult> {
  await using box = await startRetuned()
  await using retuner = box.retuner()
  preparePgbench(box.target, 2)
  const folder = mkdtempSync(join(tmpdir(), 'beyond-retune-'))
  const prefix = join(folder, 'log')
  try {
    const flags = ['-M', 'prepared', '--log', `--log-prefix=${prefix}`, ...(rate === undefined ? [] : [`--rate=${rate}`])]
    await using bench = new Pgbench(box.target, clients, ...flags)
    await until('pgbench works', () => bench.result().rates.length > 0)
    const stallsMs: number[] = []
    for (let round = 1; round <= rounds; round++) {
      box.machine = { memoryBytes: (round % 2 === 1 ? 1024 : 512) * MB, cpus: 2 }
      const { outcome, stallMs = 0, reason } = await retuner.retune()
      assert.equal(outcome, 'restarted', reason ?? '')
      const sharedBuffers = await box.show('shared_buffers')
      assert.equal(sharedBuffers, round % 2 === 1 ? '256MB' : '128MB')
      stallsMs.push(stallMs)
      onRound?.(round, stallMs, sharedBuffers)
      const seen = bench.result().rates.length
      await until('it goes on', () => bench.result().rates.length > seen + 1)
      assert.deepEqual(bench.result().failures, [], `round ${round}`)
    }
    const { seconds } = await bench.stop()
    const latencies = readdirSync(folder).flatMap((name) => latenciesIn(join(folder, name)))
    return { stallsMs, longestMs: Math.round(Math.max(...latencies)), transactions: latencies.length, seconds }
  } finally {
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

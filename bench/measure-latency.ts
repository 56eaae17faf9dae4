/** From a commit to the row in the hands of a reader in another process, while commits come at a given rate. */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { startCdc } from '../test/support/cdc.ts'
import { until, type TestPostgres } from '../test/support/postgres.ts'
import type { LibraryTask } from './library-reader.ts'
import { cpuSeconds, now, residentMegabytes, Worker } from './processes.ts'
import { LATENCY_TABLE, type Stamps } from './receiver.ts'
import { distribution, type Distribution } from './statistics.ts'
import type { SubscriberTask } from './subscriber.ts'
import type { Commits, WriterTask } from './writer.ts'

export type LatencyReader = 'beyond-pg' | 'pg-logical-replication'

export type Latency = {
  readonly reader: LatencyReader
  readonly perSecond: number
  /** What the writer reached. */
  readonly reachedPerSecond: number
  /** Milliseconds, from the moment before COMMIT is sent. */
  readonly fromSend: Distribution
  /** Milliseconds, from the moment after COMMIT has returned; below zero where the reader was faster. */
  readonly fromReturn: Distribution
  /** Share of one CPU that the reading process took (of beyond-pg: the service). */
  readonly cpuShare: number
  readonly residentMegabytes: number
}

type Samples = { readonly fromSend: number[]; readonly fromReturn: number[]; readonly reachedPerSecond: number; readonly cpuShare: number; readonly residentMegabytes: number }

const COLLECT_MS = 30_000
/** So many seconds of each run come before what counts: code is compiled, connections are warm. */
const WARM_UP_SECONDS = 2
const SLOT = 'bench_latency'

/** Each reader at each rate, `repeat` times, taking turns. */
export async function measureLatency(
  postgres: TestPostgres,
  { rates, seconds, repeat }: { readonly rates: readonly number[]; readonly seconds: number; readonly repeat: number },
  onProgress: (text: string) => void,
): Promise<Latency[]> {
  await postgres.query(`DROP TABLE IF EXISTS ${LATENCY_TABLE}`)
  await postgres.query(`CREATE TABLE ${LATENCY_TABLE} (id bigint PRIMARY KEY, account int NOT NULL, note text NOT NULL, amount numeric NOT NULL, created_at timestamptz NOT NULL)`)
  const samples = new Map<string, Samples[]>()
  let firstId = 1
  for (let repetition = 0; repetition < repeat; repetition++)
    for (const perSecond of rates)
      for (const reader of ['beyond-pg', 'pg-logical-replication'] as const) {
        const one = await measure[reader](postgres, { perSecond, seconds: seconds + WARM_UP_SECONDS, firstId })
        firstId += Math.round(perSecond * (seconds + WARM_UP_SECONDS))
        const key = `${reader} ${perSecond}`
        samples.set(key, [...(samples.get(key) ?? []), one])
        onProgress(`${reader}, ${perSecond} commits/s: p50 ${distribution(one.fromSend).p50.toFixed(2)} ms`)
      }
  return rates.flatMap((perSecond) =>
    (['beyond-pg', 'pg-logical-replication'] as const).map((reader) => {
      const all = samples.get(`${reader} ${perSecond}`)!
      const mean = (of: (one: Samples) => number): number => all.reduce((sum, one) => sum + of(one), 0) / all.length
      return {
        reader,
        perSecond,
        reachedPerSecond: mean((one) => one.reachedPerSecond),
        fromSend: distribution(all.flatMap((one) => one.fromSend)),
        fromReturn: distribution(all.flatMap((one) => one.fromReturn)),
        cpuShare: mean((one) => one.cpuShare),
        residentMegabytes: Math.max(...all.map((one) => one.residentMegabytes)),
      }
    }),
  )
}

type Load = { readonly perSecond: number; readonly seconds: number; readonly firstId: number }

const measure: Record<LatencyReader, (postgres: TestPostgres, load: Load) => Promise<Samples>> = {
  'beyond-pg': async (postgres, load) => {
    await using writer = await Worker.start('writer.ts')
    await using subscriber = await Worker.start('subscriber.ts')
    const data = join(postgres.directory, SLOT)
    await using cdc = await startCdc(postgres, ['--slot', SLOT, '--data', data])
    subscriber.send({ kind: 'read', connect: cdc.connect, from: 'now', rows: Infinity } satisfies SubscriberTask)
    await subscriber.next('streaming', COLLECT_MS)
    const samples = await run(postgres, load, writer, subscriber, cdc.pid)
    await cdc.stop()
    rmSync(data, { recursive: true })
    await dropSlot(postgres)
    return samples
  },

  'pg-logical-replication': async (postgres, load) => {
    await using writer = await Worker.start('writer.ts')
    await postgres.query(`SELECT pg_create_logical_replication_slot('${SLOT}', 'pgoutput')`)
    let samples: Samples
    {
      await using reader = await Worker.start('library-reader.ts')
      reader.send({ kind: 'read', socketDirectory: postgres.socketDirectory, port: postgres.port, slot: SLOT, publication: 'beyond', rows: Infinity } satisfies LibraryTask)
      await reader.next('streaming', COLLECT_MS)
      samples = await run(postgres, load, writer, reader, reader.pid)
    }
    await dropSlot(postgres)
    return samples
  },
}

async function run(postgres: TestPostgres, load: Load, writer: Worker, reader: Worker, pid: number): Promise<Samples> {
  const { socketDirectory, port } = postgres
  const cpuBefore = cpuSeconds(pid)
  const startedAt = now()
  writer.send({ kind: 'write', socketDirectory, port, ...load } satisfies WriterTask)
  const { commits } = await writer.next<Commits>('commits', load.seconds * 3_000 + COLLECT_MS)
  const cpuShare = (cpuSeconds(pid) - cpuBefore) / ((now() - startedAt) / 1000)
  const resident = residentMegabytes(pid)
  reader.send({ kind: 'collect', count: commits.length } satisfies SubscriberTask)
  const { stamps } = await reader.next<Stamps>('stamps', COLLECT_MS)
  const receivedAt = new Map(stamps)
  const warm = commits.filter(([id]) => id - load.firstId >= WARM_UP_SECONDS * load.perSecond)
  const first = Math.min(...warm.map(([, sentAt]) => sentAt))
  const last = warm.reduce((latest, [, sentAt]) => Math.max(latest, sentAt), first)
  return {
    fromSend: warm.map(([id, sentAt]) => receivedAt.get(id)! - sentAt),
    fromReturn: warm.map(([id, , returnedAt]) => receivedAt.get(id)! - returnedAt),
    reachedPerSecond: ((warm.length - 1) / (last - first)) * 1000,
    cpuShare,
    residentMegabytes: resident,
  }
}

async function dropSlot(postgres: TestPostgres): Promise<void> {
  await until('the slot is free', async () => (await postgres.query(`SELECT active FROM pg_replication_slots WHERE slot_name = '${SLOT}'`))[0][0] === 'f')
  await postgres.query(`SELECT pg_drop_replication_slot('${SLOT}')`)
}

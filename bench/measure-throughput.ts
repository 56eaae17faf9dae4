/**
 * Many small changes from WAL that nobody has read yet, so that the walsender is what limits and not whoever writes. Each
 * reader gets a slot of its own at the same point of the same WAL.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { startCdc } from '../test/support/cdc.ts'
import { bindir, until, type TestPostgres } from '../test/support/postgres.ts'
import { CpuSampler, cpuSeconds, endedChildrenCpuSeconds, now, residentMegabytes, Worker } from './processes.ts'
import type { LibraryTask } from './library-reader.ts'
import type { Counted } from './receiver.ts'
import type { SubscriberTask } from './subscriber.ts'

export const readers = ['beyond-pg', 'pg_recvlogical', 'pg-logical-replication'] as const
export type Reader = (typeof readers)[number]

/** One reader, once. CPU seconds are per million rows. */
export type Throughput = {
  readonly reader: Reader
  readonly rowsPerTransaction: number
  readonly rows: number
  readonly seconds: number
  readonly rowsPerSecond: number
  /** Of what the reader stores: the change log, or the file of raw pgoutput. */
  readonly storedMegabytes: number
  readonly readerCpu: number
  readonly walsenderCpu: number
  readonly subscriberCpu: number | undefined
  readonly residentMegabytes: number | undefined
}

type Run = { readonly postgres: TestPostgres; readonly slot: string; readonly rows: number; readonly endLsn: string }
type Measured = Omit<Throughput, 'reader' | 'rowsPerTransaction' | 'rows' | 'rowsPerSecond'>

const ORIGIN = 'bench_origin'
const TIMEOUT_MS = 600_000

/** Every reader `repeat` times, taking turns. */
export async function measureThroughput(
  postgres: TestPostgres,
  { rows, rowsPerTransaction, repeat }: { readonly rows: number; readonly rowsPerTransaction: number; readonly repeat: number },
  onProgress: (text: string) => void,
): Promise<Throughput[]> {
  await postgres.query(`SELECT pg_create_logical_replication_slot('${ORIGIN}', 'pgoutput')`)
  onProgress(`writing ${rows.toLocaleString('en')} rows, ${rowsPerTransaction} per transaction`)
  await writeRows(postgres, rows, rowsPerTransaction)
  await postgres.query('CHECKPOINT')
  const [[endLsn]] = await postgres.query('SELECT pg_current_wal_flush_lsn()')
  const results: Throughput[] = []
  for (let repetition = 0; repetition < repeat; repetition++) {
    for (const reader of readers) {
      const slot = `bench_${repetition}_${readers.indexOf(reader)}`
      await postgres.query(`SELECT pg_copy_logical_replication_slot('${ORIGIN}', '${slot}')`)
      const measured = await measure[reader]({ postgres, slot, rows, endLsn })
      await until('the slot is free', async () => (await postgres.query(`SELECT active FROM pg_replication_slots WHERE slot_name = '${slot}'`))[0][0] === 'f')
      await postgres.query(`SELECT pg_drop_replication_slot('${slot}')`)
      const result = { reader, rowsPerTransaction, rows, rowsPerSecond: rows / measured.seconds, ...measured }
      onProgress(`${reader}, ${rowsPerTransaction} per transaction: ${Math.round(result.rowsPerSecond).toLocaleString('en')} rows/s`)
      results.push(result)
    }
  }
  await postgres.query(`SELECT pg_drop_replication_slot('${ORIGIN}')`)
  return results
}

const measure: Record<Reader, (run: Run) => Promise<Measured>> = {
  'beyond-pg': async ({ postgres, slot, rows }) => {
    await using subscriber = await Worker.start('subscriber.ts')
    const data = join(postgres.directory, slot)
    await using cdc = await startCdc(postgres, ['--slot', slot, '--data', data])
    const startedAt = now()
    const cpuBefore = cpuSeconds(cdc.pid)
    const subscriberBefore = cpuSeconds(subscriber.pid)
    subscriber.send({ kind: 'read', connect: cdc.connect, from: 'beginning', rows } satisfies SubscriberTask)
    using walsender = new CpuSampler(await walsenderOf(postgres, slot), 0)
    const counted = await subscriber.next<Counted>('counted', TIMEOUT_MS)
    const seconds = (counted.at - startedAt) / 1000
    const millions = rows / 1e6
    const result = {
      seconds,
      storedMegabytes: folderMegabytes(data),
      readerCpu: (cpuSeconds(cdc.pid) - cpuBefore) / millions,
      walsenderCpu: walsender.seconds / millions,
      subscriberCpu: (cpuSeconds(subscriber.pid) - subscriberBefore) / millions,
      residentMegabytes: residentMegabytes(cdc.pid),
    }
    await cdc.stop()
    rmSync(data, { recursive: true })
    return result
  },

  pg_recvlogical: async ({ postgres, slot, rows, endLsn }) => {
    const file = join(postgres.directory, `${slot}.pgoutput`)
    const connection = ['-h', postgres.socketDirectory, '-p', String(postgres.port), '-U', 'postgres', '-d', 'postgres']
    const options = ['-o', 'proto_version=4', '-o', 'publication_names=beyond', '-o', 'messages=true']
    const before = endedChildrenCpuSeconds()
    const startedAt = now()
    const child = spawn(join(bindir, 'pg_recvlogical'), [...connection, '--slot', slot, '--start', '--no-loop', '--endpos', endLsn, '-f', file, ...options], { stdio: 'inherit' })
    const exited = once(child, 'exit')
    using walsender = new CpuSampler(await walsenderOf(postgres, slot), 0)
    const [code] = (await exited) as [number | null]
    const seconds = (now() - startedAt) / 1000
    if (code !== 0) throw new Error(`pg_recvlogical ended with ${code}`)
    const storedMegabytes = statSync(file).size / 1e6
    rmSync(file)
    const millions = rows / 1e6
    return {
      seconds,
      storedMegabytes,
      readerCpu: (endedChildrenCpuSeconds() - before) / millions,
      walsenderCpu: walsender.seconds / millions,
      subscriberCpu: undefined,
      residentMegabytes: undefined,
    }
  },

  'pg-logical-replication': async ({ postgres, slot, rows }) => {
    await using reader = await Worker.start('library-reader.ts')
    const startedAt = now()
    const cpuBefore = cpuSeconds(reader.pid)
    reader.send({ kind: 'read', socketDirectory: postgres.socketDirectory, port: postgres.port, slot, publication: 'beyond', rows } satisfies LibraryTask)
    using walsender = new CpuSampler(await walsenderOf(postgres, slot), 0)
    const counted = await reader.next<Counted>('counted', TIMEOUT_MS)
    const millions = rows / 1e6
    return {
      seconds: (counted.at - startedAt) / 1000,
      storedMegabytes: 0,
      readerCpu: (cpuSeconds(reader.pid) - cpuBefore) / millions,
      walsenderCpu: walsender.seconds / millions,
      subscriberCpu: undefined,
      residentMegabytes: residentMegabytes(reader.pid),
    }
  },
}

async function walsenderOf(postgres: TestPostgres, slot: string): Promise<number> {
  let pid = 0
  await until('the slot is read', async () => {
    const [[active]] = await postgres.query(`SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = '${slot}'`)
    return (pid = Number(active)) > 0
  })
  return pid
}

/** Small rows of five columns; commits are not waited for. */
export async function writeRows(postgres: TestPostgres, rows: number, rowsPerTransaction: number): Promise<void> {
  await postgres.query('DROP TABLE IF EXISTS bench_rows')
  await postgres.query('CREATE TABLE bench_rows (id bigint PRIMARY KEY, account int NOT NULL, note text NOT NULL, amount numeric NOT NULL, created_at timestamptz NOT NULL)')
  const client = await postgres.client()
  try {
    await client.query('SET synchronous_commit = off')
    await client.query(`DO $$ BEGIN
      FOR done IN 0..${rows / rowsPerTransaction - 1} LOOP
        INSERT INTO bench_rows
          SELECT id, id % 1000, 'transfer no ' || lpad(id::text, 8, '0'), (id % 977) + (id % 89)::numeric / 100, timestamptz '2026-03-04 05:06:07+00' + id * interval '1 ms'
          FROM generate_series(done::bigint * ${rowsPerTransaction} + 1, (done + 1)::bigint * ${rowsPerTransaction}) AS id;
        COMMIT;
      END LOOP;
    END $$`)
  } finally {
    await client.end()
  }
}

/** Of the segments of a change log. */
function folderMegabytes(directory: string): number {
  const files = readdirSync(directory, { encoding: 'utf8', recursive: true }).filter((name) => name.endsWith('.log'))
  return files.reduce((sum, name) => sum + statSync(join(directory, name)).size, 0) / 1e6
}

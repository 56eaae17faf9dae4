/** How fast a log that is there goes out to many subscribers at once. */
import { join } from 'node:path'
import { startCdc } from '../test/support/cdc.ts'
import { type TestPostgres } from '../test/support/postgres.ts'
import type { FannedOut, FanOutTask } from './fan-out.ts'
import { writeRows } from './measure-throughput.ts'
import { cpuSeconds, residentMegabytes, Worker } from './processes.ts'

export type FanOut = {
  readonly subscribers: number
  readonly seconds: number
  /** To all subscribers together. */
  readonly rowsPerSecond: number
  readonly rowsPerSecondEach: number
  /** The slowest subscriber took so many times as long as the fastest. */
  readonly spread: number
  readonly megabytesPerSecond: number
  /** CPU seconds of the service per million rows delivered. */
  readonly serviceCpu: number
  readonly residentMegabytes: number
}

const TIMEOUT_MS = 300_000

export async function measureFanOut(
  postgres: TestPostgres,
  { rows, counts, repeat }: { readonly rows: number; readonly counts: readonly number[]; readonly repeat: number },
  onProgress: (text: string) => void,
): Promise<FanOut[]> {
  await using cdc = await startCdc(postgres, ['--slot', 'bench_fan_out', '--data', join(postgres.directory, 'fan-out')])
  await writeRows(postgres, rows, 1000)
  const results: FanOut[] = []
  // One round first that does not count: everything is in the log then, and the code is warm.
  await once(cdc, rows, 1)
  for (let repetition = 0; repetition < repeat; repetition++)
    for (const subscribers of counts) {
      const result = await once(cdc, rows, subscribers)
      onProgress(`${subscribers} subscribers: ${Math.round(result.rowsPerSecond).toLocaleString('en')} rows/s together`)
      results.push(result)
    }
  await cdc.stop()
  return results
}

async function once(cdc: Awaited<ReturnType<typeof startCdc>>, rows: number, subscribers: number): Promise<FanOut> {
  await using worker = await Worker.start('fan-out.ts')
  worker.send({ kind: 'read', port: cdc.port, tls: cdc.connect.tls, subscribers, rows } satisfies FanOutTask)
  await worker.next('connected', TIMEOUT_MS)
  const cpuBefore = cpuSeconds(cdc.pid)
  const { startedAt, endedAt, bytes } = await worker.next<FannedOut>('fanned out', TIMEOUT_MS)
  const seconds = (Math.max(...endedAt) - startedAt) / 1000
  return {
    subscribers,
    seconds,
    rowsPerSecond: (rows * subscribers) / seconds,
    rowsPerSecondEach: rows / seconds,
    spread: (Math.max(...endedAt) - startedAt) / (Math.min(...endedAt) - startedAt),
    megabytesPerSecond: bytes / 1e6 / seconds,
    serviceCpu: (cpuSeconds(cdc.pid) - cpuBefore) / ((rows * subscribers) / 1e6),
    residentMegabytes: residentMegabytes(cdc.pid),
  }
}

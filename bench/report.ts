/** What a run has measured, and as text. Pure. */
import type { FanOut } from './measure-fan-out.ts'
import type { Latency } from './measure-latency.ts'
import { readers, type Reader, type Throughput } from './measure-throughput.ts'
import { median, type Distribution } from './statistics.ts'

export type Report = {
  readonly machine: { readonly cpus: number; readonly model: string; readonly node: string; readonly syncMilliseconds: number }
  readonly throughput: readonly Throughput[]
  readonly latency: readonly Latency[]
  readonly fanOut: readonly FanOut[]
}

export type ThroughputSummary = {
  readonly reader: Reader
  readonly rowsPerTransaction: number
  readonly rowsPerSecond: number
  /** Median of the ratios to pg_recvlogical in the same repetition. */
  readonly ratio: number
  readonly megabytesPerSecond: number
  readonly readerCpu: number
  readonly walsenderCpu: number
  readonly subscriberCpu: number | undefined
  readonly residentMegabytes: number | undefined
}

/** Medians of the repetitions. */
export function summarizeThroughput(all: readonly Throughput[]): ThroughputSummary[] {
  const shapes = [...new Set(all.map((one) => one.rowsPerTransaction))]
  return shapes.flatMap((rowsPerTransaction) =>
    readers.map((reader) => {
      const runs = all.filter((one) => one.reader === reader && one.rowsPerTransaction === rowsPerTransaction)
      const raw = all.filter((one) => one.reader === 'pg_recvlogical' && one.rowsPerTransaction === rowsPerTransaction)
      const of = (value: (one: Throughput) => number): number => median(runs.map(value))
      return {
        reader,
        rowsPerTransaction,
        rowsPerSecond: of((one) => one.rowsPerSecond),
        ratio: median(runs.map((one, repetition) => one.rowsPerSecond / raw[repetition].rowsPerSecond)),
        megabytesPerSecond: of((one) => one.storedMegabytes / one.seconds),
        readerCpu: of((one) => one.readerCpu),
        walsenderCpu: of((one) => one.walsenderCpu),
        subscriberCpu: runs[0].subscriberCpu === undefined ? undefined : of((one) => one.subscriberCpu!),
        residentMegabytes: runs[0].residentMegabytes === undefined ? undefined : of((one) => one.residentMegabytes!),
      }
    }),
  )
}

/** Medians of the repetitions. */
export function summarizeFanOut(all: readonly FanOut[]): FanOut[] {
  return [...new Set(all.map((one) => one.subscribers))].map((subscribers) => {
    const runs = all.filter((one) => one.subscribers === subscribers)
    const of = (name: keyof FanOut): number => median(runs.map((one) => one[name]))
    return {
      subscribers,
      seconds: of('seconds'),
      rowsPerSecond: of('rowsPerSecond'),
      rowsPerSecondEach: of('rowsPerSecondEach'),
      spread: of('spread'),
      megabytesPerSecond: of('megabytesPerSecond'),
      serviceCpu: of('serviceCpu'),
      residentMegabytes: of('residentMegabytes'),
    }
  })
}

export function reportText({ machine, throughput, latency, fanOut }: Report): string {
  const blocks = [`${machine.cpus} CPUs (${machine.model}), Node ${machine.node}, 16 KB durable in ${machine.syncMilliseconds.toFixed(2)} ms`]
  if (throughput.length > 0) {
    const lines = summarizeThroughput(throughput).map((one) => [
      one.reader,
      String(one.rowsPerTransaction),
      grouped(one.rowsPerSecond),
      one.ratio.toFixed(2),
      one.megabytesPerSecond === 0 ? '-' : one.megabytesPerSecond.toFixed(1),
      one.readerCpu.toFixed(2),
      one.walsenderCpu.toFixed(2),
      one.subscriberCpu?.toFixed(2) ?? '-',
      one.residentMegabytes?.toFixed(0) ?? '-',
    ])
    blocks.push(`Throughput: WAL that was there already, to the last row in the reader's hands\n${table(
      ['reader', 'rows/tx', 'rows/s', 'of pg_recvlogical', 'MB/s stored', 'CPU s per M rows', 'of walsender', 'of subscriber', 'RSS MB'],
      lines,
    )}`)
  }
  if (latency.length > 0) {
    const lines = latency.flatMap((one) => [
      [one.reader, `${one.perSecond}`, grouped(one.reachedPerSecond), 'COMMIT sent', ...quantiles(one.fromSend), `${(one.cpuShare * 100).toFixed(0)} %`, one.residentMegabytes.toFixed(0)],
      ['', '', '', 'COMMIT returned', ...quantiles(one.fromReturn), '', ''],
    ])
    blocks.push(`Latency, ms: from a commit to the row in another process\n${table(['reader', 'commits/s', 'reached', 'from', 'p50', 'p99', 'p99.9', 'max', 'CPU of reader', 'RSS MB'], lines)}`)
  }
  if (fanOut.length > 0) {
    const lines = summarizeFanOut(fanOut).map((one) => [
      String(one.subscribers),
      grouped(one.rowsPerSecond),
      grouped(one.rowsPerSecondEach),
      one.megabytesPerSecond.toFixed(1),
      one.serviceCpu.toFixed(2),
      one.spread.toFixed(2),
      one.residentMegabytes.toFixed(0),
    ])
    blocks.push(`Fan-out: a log that is there, to all subscribers at once\n${table(['subscribers', 'rows/s together', 'rows/s each', 'MB/s', 'service CPU s per M rows', 'slowest / fastest', 'RSS MB'], lines)}`)
  }
  return `${blocks.join('\n\n')}\n`
}

const grouped = (value: number): string => Math.round(value).toLocaleString('en')
const quantiles = ({ p50, p99, p999, max }: Distribution): string[] => [p50, p99, p999, max].map((value) => value.toFixed(2))

/** The first column to the left, the others to the right. */
function table(head: readonly string[], lines: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) => Math.max(title.length, ...lines.map((line) => line[column].length)))
  const row = (cells: readonly string[]): string => cells.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[column]))).join('  ').trimEnd()
  return [row(head), widths.map((width) => '-'.repeat(width)).join('  '), ...lines.map(row)].join('\n')
}

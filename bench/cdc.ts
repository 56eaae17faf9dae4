/**
 * The change path, measured end to end beside its peers: throughput, latency, fan-out. bench/README.md says what the numbers mean.
 * npm run bench -- [--rows N] [--repeat N] [--latency-seconds N] [--only PARTS] [--json] [--out FILE.svg] [--profile DIRECTORY]
 */
import { closeSync, fdatasyncSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { cpus } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { startPostgres } from '../test/support/postgres.ts'
import { drawReport } from './chart.ts'
import { measureFanOut } from './measure-fan-out.ts'
import { measureLatency } from './measure-latency.ts'
import { measureThroughput } from './measure-throughput.ts'
import { now } from './processes.ts'
import { reportText, type Report } from './report.ts'
import { median } from './statistics.ts'

const { values: flags } = parseArgs({
  options: {
    rows: { type: 'string', default: '1000000' },
    repeat: { type: 'string', default: '3' },
    'latency-seconds': { type: 'string', default: '20' },
    only: { type: 'string', default: 'throughput,latency,fan-out' },
    json: { type: 'boolean', default: false },
    out: { type: 'string' },
    profile: { type: 'string' },
  },
})
const rows = whole('rows', flags.rows, 10_000)
const repeat = whole('repeat', flags.repeat, 1)
const seconds = whole('latency-seconds', flags['latency-seconds'], 1)
const parts = flags.only.split(',')
const progress = (text: string): void => void process.stderr.write(`${text}\n`)

function whole(name: string, text: string, min: number): number {
  const value = Number(text)
  if (Number.isSafeInteger(value) && value >= min) return value
  process.stderr.write(`--${name} must be a whole number of at least ${min}.\n`)
  process.exit(2)
}

/** Milliseconds that 16 KB take to become durable where the measurement writes. */
function syncMilliseconds(directory: string): number {
  const file = openSync(join(directory, 'sync'), 'w')
  const block = Buffer.alloc(16 * 1024)
  const times = Array.from({ length: 200 }, () => {
    const startedAt = now()
    writeSync(file, block)
    fdatasyncSync(file)
    return now() - startedAt
  })
  closeSync(file)
  return median(times)
}

// Of the service and of the workers alike: files to open in the developer tools of a browser.
if (flags.profile !== undefined) process.env['NODE_OPTIONS'] = `--cpu-prof --cpu-prof-dir=${resolve(flags.profile)}`
await using postgres = await startPostgres({ max_wal_size: '16GB', checkpoint_timeout: '1h', shared_buffers: '256MB', max_replication_slots: '20' })
await postgres.query('CREATE PUBLICATION beyond FOR ALL TABLES')
const thousands = Math.ceil(rows / 1000) * 1000
const report: Report = {
  machine: { cpus: cpus().length, model: cpus()[0]?.model ?? 'unknown', node: process.version, syncMilliseconds: syncMilliseconds(postgres.directory) },
  throughput: parts.includes('throughput')
    ? [
        ...(await measureThroughput(postgres, { rows: thousands, rowsPerTransaction: 1000, repeat }, progress)),
        ...(await measureThroughput(postgres, { rows: thousands / 5, rowsPerTransaction: 1, repeat }, progress)),
      ]
    : [],
  latency: parts.includes('latency') ? await measureLatency(postgres, { rates: [100, 1000], seconds, repeat }, progress) : [],
  fanOut: parts.includes('fan-out') ? await measureFanOut(postgres, { rows: Math.max(10_000, thousands / 5), counts: [1, 10, 50], repeat }, progress) : [],
}
process.stdout.write(flags.json ? `${JSON.stringify(report, null, 2)}\n` : reportText(report))
if (flags.out !== undefined) writeFileSync(flags.out, drawReport(report))

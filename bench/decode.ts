/**
 * How fast pgoutput becomes frames, beside the parser of pg-logical-replication on the same bytes.
 * node bench/decode.ts [ROWS]     rows per measurement, 1,000,000 by default
 */
import { PgoutputPlugin } from 'pg-logical-replication'
import { ChangeEncoder } from '../src/decode/change-encoder.ts'
import * as pgoutput from '../test/decode/pgoutput-builder.ts'

const rows = Number(process.argv[2] ?? 1_000_000)
const OID = 16_385
const columns: pgoutput.Column[] = [
  { name: 'id', typeOid: 20, key: true },
  { name: 'account', typeOid: 23 },
  { name: 'amount', typeOid: 1700 },
  { name: 'note', typeOid: 25 },
  { name: 'created_at', typeOid: 1184 },
]
const relation = pgoutput.relation(OID, 'public', 'ledger', 'default', columns)
const insert = (id: number): Buffer =>
  pgoutput.insert(OID, [
    pgoutput.text(String(id)),
    pgoutput.text(String(id % 1000)),
    pgoutput.text(`${id % 977}.${10 + (id % 89)}`),
    pgoutput.text(`transfer number ${id} to somebody`),
    pgoutput.text(`2026-03-04 05:06:07.${100_000 + (id % 900_000)}+00`),
  ])

/** A stretch of the stream, given again and again: transactions of `size` rows. */
function stretch(size: number): Buffer[] {
  const messages: Buffer[] = []
  for (let id = 1; id <= 20_000; ) {
    const lsn = 0x1_0000_0000n + BigInt(id) * 200n
    messages.push(pgoutput.begin(lsn, 1_772_600_000_000_000n + BigInt(id), 1000 + id))
    for (const last = id + size; id < last; id++) messages.push(insert(100_000 + id))
    messages.push(pgoutput.commit(lsn, lsn + 48n, 1_772_600_000_000_000n + BigInt(id)))
  }
  // As they come from a socket: views into a few large chunks.
  const chunk = Buffer.concat(messages)
  let offset = 0
  return messages.map(({ length }) => chunk.subarray(offset, (offset += length)))
}

type Result = { readonly name: string; readonly size: number; readonly cpuSeconds: number; readonly bytes: number }

function measure(name: string, size: number, run: (messages: readonly Buffer[], rounds: number) => number): Result {
  const messages = stretch(size)
  const rounds = Math.max(1, Math.round(rows / 20_000))
  run(messages, Math.min(rounds, 10))
  const before = process.cpuUsage()
  const bytes = run(messages, rounds)
  const { user, system } = process.cpuUsage(before)
  return { name, size, cpuSeconds: (user + system) / 1e6 / (rounds * 20_000) * 1e6, bytes: bytes / (rounds * 20_000) }
}

function encode(messages: readonly Buffer[], rounds: number): number {
  const encoder = new ChangeEncoder(Buffer.alloc(32))
  encoder.push(relation)
  let bytes = 0
  for (let round = 0; round < rounds; round++) {
    for (const message of messages) {
      encoder.push(message)
      if (encoder.pendingBytes > 512 * 1024) bytes += encoder.take()!.bytes.length
    }
  }
  return bytes + (encoder.take()?.bytes.length ?? 0)
}

function parse(messages: readonly Buffer[], rounds: number): number {
  const plugin = new PgoutputPlugin({ protoVersion: 2, publicationNames: [] })
  plugin.parse(relation)
  let bytes = 0
  for (let round = 0; round < rounds; round++) {
    for (const message of messages) {
      plugin.parse(message)
      bytes += message.length
    }
  }
  return bytes
}

const results = [1, 1000].flatMap((size) => [measure('ChangeEncoder', size, encode), measure('PgoutputPlugin.parse', size, parse)])
process.stdout.write('what                    rows per transaction   CPU µs per row        rows/s   bytes out per row\n')
for (const { name, size, cpuSeconds, bytes } of results) {
  const shown = name === 'ChangeEncoder' ? bytes.toFixed(0) : '-'
  const perSecond = Math.round(1e6 / cpuSeconds).toLocaleString('en')
  const line = `${name.padEnd(24)}${String(size).padStart(20)}${cpuSeconds.toFixed(2).padStart(17)}${perSecond.padStart(14)}`
  process.stdout.write(`${line}${shown.padStart(20)}\n`)
}

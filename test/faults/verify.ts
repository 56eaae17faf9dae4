/** Whether a subscriber's record is what the database has committed: each change once, in commit order. */
import assert from 'node:assert/strict'
import type { Value } from '../../src/transport/client-events.ts'
import type { TestPostgres } from '../support/postgres.ts'
import { TABLES } from './load.ts'
import { readRecord, recordedValue, type RecordedRow, type RecordedValue } from './record.ts'

export type Verdict = { readonly transactions: number; readonly changes: number; readonly messages: number }

type Table = Map<string, Record<string, RecordedValue>>
const KEYS: Readonly<Record<string, readonly string[]>> = { item: ['id'], whole: ['id'], scratch: ['id'], marker: ['writer', 'k'] }
const keyOf = (table: string, row: RecordedRow): string => KEYS[table].map((name) => String(row[name])).join(',')

/** `acknowledged`: messages outside of transactions that must be there. Throws an AssertionError. */
export async function verify(postgres: TestPostgres, record: string, acknowledged: readonly string[]): Promise<Verdict> {
  const tables = new Map<string, Table>(TABLES.map((name) => [name, new Map()]))
  const markers = new Map<string, number>()
  const newest = new Map<string, number>()
  const messages = new Set<string>()
  let lsn = 0n
  let open: bigint | undefined
  let index = 0
  let marked: { key: string; changes: number } | undefined
  let transactions = 0
  let changes = 0

  for await (const line of readRecord(record)) {
    if (line.kind === 'begin') {
      assert.equal(open, undefined, `a transaction begins at ${line.lsn} inside the one at ${open}`)
      open = BigInt(line.lsn)
      assert.ok(open > lsn, `the transaction at ${open} comes after the one at ${lsn}`)
      index = 0
      marked = undefined
      continue
    }
    assert.notEqual(open, undefined, `${JSON.stringify(line)} stands outside of a transaction`)
    if (line.kind === 'commit') {
      assert.equal(BigInt(line.lsn), open)
      assert.equal(line.changes, index, `the transaction at ${open} has a gap at its end`)
      if (marked) assert.equal(marked.changes, index - 1, `the transaction at ${open} has other changes than its writer made`)
      lsn = open!
      open = undefined
      transactions++
      continue
    }
    assert.equal(line.index, ++index, `the transaction at ${open} has a gap`)
    changes++
    if (line.kind === 'message') {
      if (line.prefix !== 'outside') continue
      assert.ok(!messages.has(line.content), `the message ${line.content} came twice`)
      messages.add(line.content)
    } else if (line.kind === 'truncate') {
      for (const name of line.tables) tables.get(name)!.clear()
    } else {
      apply(tables.get(line.table)!, line.table, line.kind, line.before, line.after, open!)
      if (line.table !== 'marker') continue
      const { writer, k, changes } = line.after as Record<string, RecordedValue>
      const key = `${writer},${k}`
      assert.ok(!markers.has(key), `the transaction ${key} came twice`)
      assert.ok(Number(k) > (newest.get(String(writer)) ?? 0), `the transaction ${key} came after a later one of its writer`)
      newest.set(String(writer), Number(k))
      markers.set(key, Number(changes))
      marked = { key, changes: Number(changes) }
    }
  }
  assert.equal(open, undefined, 'the record ends inside a transaction')

  const client = await postgres.client()
  try {
    for (const name of TABLES) {
      const { rows } = await client.query<Record<string, Value>>({ text: `SELECT * FROM ${name}`, types: { getTypeParser: () => (text: string) => text } as never })
      const replayed = tables.get(name)!
      assert.equal(replayed.size, rows.length, `${name} holds ${rows.length} rows, the record gives ${replayed.size}`)
      for (const row of rows) {
        const key = keyOf(name, row as RecordedRow)
        const ours = replayed.get(key)
        assert.ok(ours, `the record lacks row ${key} of ${name}`)
        for (const [column, value] of Object.entries(row))
          if (column !== 'at') assert.equal(plain(ours[column]), plain(recordedValue(value)), `row ${key} of ${name} differs in ${column}`)
      }
    }
  } finally {
    await client.end()
  }
  for (const message of acknowledged) assert.ok(messages.has(message), `the message ${message} is missing`)
  return { transactions, changes, messages: messages.size }
}

/** A column that was added later is null in older rows. */
const plain = (value: RecordedValue | undefined): string | null => (value === undefined || value === null ? null : typeof value === 'object' ? 'unchanged' : String(value))

/** Every change has to fit the row that it finds; `n` counts the updates of a row. */
function apply(table: Table, name: string, kind: string, before: RecordedRow | null, after: RecordedRow | null, lsn: bigint): void {
  const where = `of ${name} in the transaction at ${lsn}`
  if (kind === 'insert') {
    const key = keyOf(name, after!)
    assert.ok(!table.has(key), `insert of row ${key} ${where}, which is there`)
    table.set(key, { ...after })
    return
  }
  const key = keyOf(name, before ?? after!)
  const old = table.get(key)
  assert.ok(old, `${kind} of row ${key} ${where}, which is not there`)
  if (name === 'whole') for (const [column, value] of Object.entries(before!)) assert.deepEqual(value, old[column], `the old row ${key} ${where} differs in ${column}`)
  table.delete(key)
  if (kind === 'delete') return
  assert.equal(after!['n'], Number(old['n']) + 1, `an update of row ${key} ${where} is missing or came twice`)
  const now: Record<string, RecordedValue> = {}
  for (const [column, value] of Object.entries(after!)) now[column] = value !== null && typeof value === 'object' ? old[column] : value
  table.set(keyOf(name, after!), now)
}

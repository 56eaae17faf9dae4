import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BeyondError } from '../../src/errors.ts'
import { decodeMessage, type Begin, type Commit, type PgoutputMessage } from '../../src/decode/pgoutput-message.ts'
import { formatLsn } from '../../src/wal/lsn.ts'
import { capturedMessages, capturedTransactions } from '../fixtures/pg18/messages.ts'

/** Values as text, LSNs as Postgres prints them. */
function shown(message: PgoutputMessage): unknown {
  return JSON.parse(
    JSON.stringify(message, (_, value: unknown) => {
      if (typeof value === 'bigint') return formatLsn(value as never)
      if (value !== null && typeof value === 'object' && 'type' in value
        && value.type === 'Buffer') return Buffer.from((value as never)['data'] as number[]).toString()
      return value
    }),
  )
}

const decoded = capturedMessages.map(({ message, step }) => ({ ...decodeMessage(message), step }))

/** Messages of the step that begins so, without Begin, Commit and the step itself. */
function of(step: string): unknown[] {
  const found = decoded.filter((message) => message.step.startsWith(step) && message.kind !== 'begin' && message.kind !== 'commit')
  assert.ok(found.length > 0, step)
  return found.map((message) => {
    const { step: asked, ...rest } = message
    assert.ok(asked)
    return shown(rest as PgoutputMessage)
  })
}

const text = (value: string) => ({ text: value })
const alphabet = (first: string, length: number): string => {
  const base = first.charCodeAt(0)
  return Array.from({ length }, (_, i) => String.fromCharCode(base + (i % 26))).join('')
}

test('Begin and Commit carry what the server itself says of each transaction', () => {
  const begins = decoded.filter((message): message is Begin & { step: string } => message.kind === 'begin')
  assert.deepEqual(begins.map(({ xid, time }) => ({ xid, committedAt: time })), capturedTransactions)
  const commits = decoded.filter((message): message is Commit & { step: string } => message.kind === 'commit')
  assert.deepEqual(commits.map(({ lsn, time }) => [lsn, time]), begins.map(({ finalLsn, time }) => [finalLsn, time]))
  for (const { lsn, endLsn } of commits) assert.ok(endLsn > lsn)
})

test('Relation and Insert', () => {
  const [relation, first, second] = of('INSERT INTO plain VALUES') as [{ oid: number }, unknown, unknown]
  const column = (name: string, typeOid: number, key = false, typmod = -1) => ({ key, name, typeOid, typmod })
  assert.deepEqual(relation, {
    kind: 'relation', oid: relation.oid, schema: 'public', table: 'plain', replicaIdentity: 'default',
    columns: [
      column('id', 20, true), column('name', 25), column('price', 1700, false, (10 << 16) + 2 + 4),
      column('at', 1184), column('raw', 17), column('ok', 16),
    ],
  })
  const relationOid = relation.oid
  assert.deepEqual(first, {
    kind: 'insert', relationOid,
    after: [text('1'), text('one'), text('1.50'), text('2026-01-02 03:04:05.678901+00'), text('\\x00ff'), text('t')],
  })
  assert.deepEqual(second, { kind: 'insert', relationOid, after: [text('9223372036854775807'), text(''), null, text('infinity'),
    text('\\x'), text('f')] })
})

test('Update and Delete: without old tuple, with the old key, with the whole old tuple', () => {
  const rest = [text('uno'), text('1.50'), text('2026-01-02 03:04:05.678901+00'), text('\\x00ff'), text('t')]
  const nulls = [null, null, null, null, null]
  const [plain] = of("UPDATE plain SET name") as [{ relationOid: number }]
  const relationOid = plain.relationOid
  assert.deepEqual(plain, { kind: 'update', relationOid, after: [text('1'), ...rest] })
  assert.deepEqual(of('UPDATE plain SET id'), [
    { kind: 'update', relationOid, before: { kind: 'key', tuple: [text('1'), ...nulls] }, after: [text('2'), ...rest] },
  ])
  assert.deepEqual(of('DELETE FROM plain'), [{ kind: 'delete', relationOid, before: { kind: 'key', tuple: [text('2'), ...nulls] } }])

  const big = text(alphabet('A', 3000))
  const [whole] = of('UPDATE whole') as [{ relationOid: number }]
  assert.deepEqual(whole, {
    kind: 'update', relationOid: whole.relationOid,
    before: { kind: 'full', tuple: [text('1'), text('b'), big] }, after: [text('1'), text('c'), 'unchanged'],
  })
  assert.deepEqual(of('DELETE FROM whole'), [
    { kind: 'delete', relationOid: whole.relationOid, before: { kind: 'full', tuple: [text('1'), text('c'), big] } },
  ])
})

test('an identity by index, one of nothing, and values out of line', () => {
  const [indexed] = of('INSERT INTO indexed') as [{ replicaIdentity: string; columns: { name: string; key: boolean }[] }]
  assert.equal(indexed.replicaIdentity, 'index')
  assert.deepEqual(indexed.columns.map(({ name, key }) => [name, key]), [['a', true], ['b', true], ['c', false]])
  const [update] = of('UPDATE indexed') as [{ before: unknown }]
  assert.deepEqual(update.before, { kind: 'key', tuple: [text('1'), text('b'), null] })
  assert.equal((of('INSERT INTO keyless VALUES (7)')[0] as { replicaIdentity: string }).replicaIdentity, 'nothing')
  assert.deepEqual((of('UPDATE toasted')[0] as { after: unknown }).after, [text('1'), text('t'), 'unchanged'])
})

test('Type, odd names, a table without columns', () => {
  const [mood, cents, moods, relation, insert] = of('INSERT INTO "odd') as [never, never, never, { columns: { name: string }[] },
    { after: unknown }]
  assert.deepEqual({ ...(mood as object), oid: 0 }, { kind: 'type', oid: 0, schema: 'public', name: 'mood' })
  assert.deepEqual({ ...(cents as object), oid: 0 }, { kind: 'type', oid: 0, schema: 'pg_catalog', name: 'int4' },
    'a domain has the name of its base type')
  assert.deepEqual({ ...(moods as object), oid: 0 }, { kind: 'type', oid: 0, schema: 'public', name: '_mood' })
  const { schema, table, columns } = relation as unknown as { schema: string; table: string; columns: { name: string }[] }
  assert.deepEqual([schema, table], ['odd "schema".x', 'Tablé 1'])
  assert.deepEqual(columns.map(({ name }) => name), ['q"uote', 'do.t', 'sp ace', 'ünï', 'm[]'])
  assert.deepEqual(insert.after, [text('1'), text('dot'), text('ok'), text('250'), text('{sad,NULL}')])
  assert.deepEqual((of('INSERT INTO empty')[1] as { after: unknown }).after, [])
})

test('Message, Truncate, Origin', () => {
  const [inside] = of('SELECT pg_logical_emit_message(true') as [{ lsn: string }]
  assert.deepEqual(inside, { kind: 'message', transactional: true, lsn: inside.lsn, prefix: 'inside', content: 'with the transaction' })
  const outside = decoded.find((message) => message.kind === 'message' && !message.transactional)
  assert.ok(outside?.kind === 'message')
  assert.equal(outside.prefix, 'outside')
  assert.deepEqual(outside.content, Buffer.from([0, 255]))

  const oid = (table: string) => decoded.flatMap((message) => (message.kind === 'relation' && message.table === table ? [message.oid]
    : []))[0]
  assert.deepEqual(of('TRUNCATE keyless').at(-1), { kind: 'truncate', relationOids: [oid('keyless')], cascade: false,
    restartIdentity: false })
  assert.deepEqual(of('TRUNCATE plain').at(-1), {
    kind: 'truncate', relationOids: [oid('plain'), oid('whole'), oid('referring')], cascade: true, restartIdentity: true,
  })
  assert.deepEqual(of('BEGIN; SELECT pg_replication_origin')[0], { kind: 'origin', lsn: '7/89ABCDEF', name: 'elsewhere' })
})

test('a relation is sent again after a change of the table', () => {
  const [relation] = of('INSERT INTO plain (id, extra)') as [{ columns: { name: string }[] }]
  assert.equal(relation.columns.at(-1)!.name, 'extra')
})

test('what is too short, too long or not asked for is refused', () => {
  const refused = (message: Buffer) =>
    assert.throws(() => decodeMessage(message), (error) => error instanceof BeyondError && error.code === 'BAD_REPLICATION_DATA',
      message.toString('hex').slice(0, 80))
  refused(Buffer.alloc(0))
  for (const letter of 'SEcAbPKrpXt\0') refused(Buffer.from(`${letter}\0\0\0\0\0\0\0\0\0\0\0\0`, 'latin1'))
  for (const { message } of capturedMessages) {
    for (let length = 0; length < Math.min(message.length, 100); length++) refused(message.subarray(0, length))
    refused(message.subarray(0, message.length - 1))
    refused(Buffer.concat([message, Buffer.from([0])]))
  }
})

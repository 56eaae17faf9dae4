/** What a subscriber sees of what Postgres commits, end to end. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, describe, it } from 'node:test'
import { subscribe, unchanged, type ChangeEvent, type SubscribeOptions } from '../../src/transport/client.ts'
import { startCdc, type TestCdc } from '../support/cdc.ts'
import { Collector } from '../support/collector.ts'
import { startPostgres, type TestPostgres } from '../support/postgres.ts'

let postgres: TestPostgres
let cdc: TestCdc
let all: Collector

const follow = (options: SubscribeOptions): Collector =>
  new Collector(subscribe({ ...cdc.connect, ...options, reconnect: { minMs: 20, maxMs: 200, connectTimeoutMs: 20_000 } }))

/** Runs each text as one transaction, and answers every event that came of it: one text per event. */
async function sees(...sql: string[]): Promise<string[]> {
  return (await events(...sql)).map(line)
}

async function events(...sql: string[]): Promise<ChangeEvent[]> {
  const start = all.events.length
  for (const text of sql) await postgres.query(text)
  const end = randomUUID()
  await postgres.query(`SELECT pg_logical_emit_message(false, 'end', '${end}', true)`)
  const isEnd = (event: ChangeEvent) => event.kind === 'message' && Buffer.from(event.content).toString() === end
  await all.until('the last change has come', () => all.events.slice(start).some(isEnd))
  const seen = all.events.slice(start)
  // Without the Begin of the message that only ends this, and the Commit of the one before.
  return seen.slice(seen[0].kind === 'commit' ? 1 : 0, seen.findIndex(isEnd) - 1)
}

function row(value: Readonly<Record<string, unknown>> | null): string {
  if (value === null) return '-'
  return `{${Object.entries(value).map(([name, value]) => `${name}=${value === unchanged ? 'UNCHANGED' : value instanceof Uint8Array ? `\\x${Buffer.from(value).toString('hex')}` : String(value)}`).join(' ')}}`
}

function line(event: ChangeEvent): string {
  switch (event.kind) {
    case 'insert':
    case 'update':
    case 'delete':
      return `${event.index} ${event.kind} ${event.table.schema}.${event.table.name} ${row(event.before)} ${row(event.after)}`
    case 'truncate':
      return `${event.index} truncate ${event.tables.map(({ schema, name }) => `${schema}.${name}`).join(' ')}${event.cascade ? ' cascade' : ''}${event.restartIdentity ? ' restart' : ''}`
    case 'message':
      return `${event.index} message ${event.prefix} ${Buffer.from(event.content).toString()}${event.transactional ? '' : ' outside'}`
    case 'schema':
      return `schema ${event.table.name}(${event.table.columns.map(({ name, type }) => `${name} ${type}`).join(', ')})`
    case 'commit':
      return `commit ${event.changes}`
    default:
      return event.kind
  }
}

before(async () => {
  postgres = await startPostgres()
  cdc = await startCdc(postgres, ['--heartbeat', '200', '--idle-mark', '20'])
  all = follow({ from: 'beginning' })
})
after(async () => {
  await all?.[Symbol.asyncDispose]()
  await cdc?.[Symbol.asyncDispose]()
  await postgres?.[Symbol.asyncDispose]()
})

describe('rows', () => {
  it('come with what each replica identity tells of the old row', async () => {
    await sees(`CREATE TABLE d (id int PRIMARY KEY, a text, b int); CREATE TABLE f (id int, a text); ALTER TABLE f REPLICA IDENTITY FULL;
      CREATE TABLE i (id int PRIMARY KEY, u int NOT NULL UNIQUE, a text); ALTER TABLE i REPLICA IDENTITY USING INDEX i_u_key; CREATE TABLE n (a text)`)
    assert.deepEqual(await sees(`INSERT INTO d VALUES (1, 'x', NULL)`, `UPDATE d SET a = 'y'`, `UPDATE d SET id = 2, b = 3`, 'DELETE FROM d'), [
      'begin', 'schema d(id int4, a text, b int4)', '1 insert public.d - {id=1 a=x b=null}', 'commit 1',
      'begin', '1 update public.d - {id=1 a=y b=null}', 'commit 1',
      'begin', '1 update public.d {id=1} {id=2 a=y b=3}', 'commit 1',
      'begin', '1 delete public.d {id=2} -', 'commit 1',
    ])
    assert.deepEqual(await sees(`INSERT INTO f VALUES (1, 'x')`, `UPDATE f SET a = 'y'`, 'DELETE FROM f'), [
      'begin', 'schema f(id int4, a text)', '1 insert public.f - {id=1 a=x}', 'commit 1',
      'begin', '1 update public.f {id=1 a=x} {id=1 a=y}', 'commit 1',
      'begin', '1 delete public.f {id=1 a=y} -', 'commit 1',
    ])
    assert.deepEqual(await sees(`INSERT INTO i VALUES (1, 10, 'x')`, `UPDATE i SET id = 2`, `UPDATE i SET u = 11`, 'DELETE FROM i'), [
      'begin', 'schema i(id int4, u int4, a text)', '1 insert public.i - {id=1 u=10 a=x}', 'commit 1',
      'begin', '1 update public.i - {id=2 u=10 a=x}', 'commit 1',
      'begin', '1 update public.i {u=10} {id=2 u=11 a=x}', 'commit 1',
      'begin', '1 delete public.i {u=11} -', 'commit 1',
    ])
    assert.deepEqual(await sees(`INSERT INTO n VALUES ('x')`), ['begin', 'schema n(a text)', '1 insert public.n - {a=x}', 'commit 1'])
  })

  it('mark large values that did not change, and fill them in where the old row is known', async () => {
    await sees('CREATE TABLE big (id int PRIMARY KEY, n int, v text); ALTER TABLE big ALTER v SET STORAGE EXTERNAL; CREATE TABLE bigf (LIKE big INCLUDING ALL); ALTER TABLE bigf REPLICA IDENTITY FULL')
    const seen = await events(
      `INSERT INTO big VALUES (1, 1, repeat('v', 10000)); INSERT INTO bigf VALUES (1, 1, repeat('v', 10000))`,
      'UPDATE big SET n = 2; UPDATE bigf SET n = 2',
    )
    const updates = seen.filter((event) => event.kind === 'update')
    assert.equal(updates[0].after['v'], unchanged)
    assert.deepEqual(updates[0].unchanged, ['v'])
    assert.equal(updates[1].after['v'], 'v'.repeat(10_000))
    assert.equal(updates[1].before!['v'], 'v'.repeat(10_000))
  })

  it('of partitions, generated columns and domains', async () => {
    await sees(`CREATE TABLE p (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
      CREATE TABLE g (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED); CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TYPE mood AS ENUM ('sad', 'glad');
      CREATE TABLE dom (id positive PRIMARY KEY, m mood, a int[])`)
    const seen = await sees('INSERT INTO p VALUES (1, 1)', 'UPDATE p SET k = 2', 'INSERT INTO g VALUES (4)', `INSERT INTO dom VALUES (7, 'glad', '{1,2}')`)
    assert.deepEqual(seen.filter((text) => !text.startsWith('schema') && !/^(begin|commit)/.test(text)), [
      '1 insert public.p1 - {id=1 k=1}',
      '1 delete public.p1 {id=1 k=1} -', '2 insert public.p2 - {id=1 k=2}',
      '1 insert public.g - {id=4}',
      '1 insert public.dom - {id=7 m=glad a={1,2}}',
    ])
  })

  it('of a transaction that rolled back, or a part of it, never come', async () => {
    await sees('CREATE TABLE r (id int PRIMARY KEY)')
    assert.deepEqual(await sees('BEGIN; INSERT INTO r VALUES (1); ROLLBACK', 'BEGIN; INSERT INTO r VALUES (2); SAVEPOINT s; INSERT INTO r VALUES (3); ROLLBACK TO s; INSERT INTO r VALUES (4); COMMIT'), [
      'begin', 'schema r(id int4)', '1 insert public.r - {id=2}', '2 insert public.r - {id=4}', 'commit 2',
    ])
  })
})

describe('other changes', () => {
  it('truncate of several tables', async () => {
    await sees('CREATE TABLE t1 (id serial PRIMARY KEY); CREATE TABLE t2 (id int REFERENCES t1)')
    assert.deepEqual(await sees('TRUNCATE t1, t2 RESTART IDENTITY', 'TRUNCATE t1 CASCADE'), [
      'begin', '1 truncate public.t1 public.t2 restart', 'commit 1', 'begin', '1 truncate public.t1 public.t2 cascade', 'commit 1',
    ])
  })

  it('logical messages, inside and outside of transactions', async () => {
    assert.deepEqual(
      await sees(`BEGIN; SELECT pg_logical_emit_message(false, 'p', 'out'); SELECT pg_logical_emit_message(true, 'p', 'in'); COMMIT`, `BEGIN; SELECT pg_logical_emit_message(false, 'p', 'kept', true); SELECT pg_logical_emit_message(true, 'p', 'gone'); ROLLBACK`),
      ['begin', '1 message p out outside', 'commit 1', 'begin', '1 message p in', 'commit 1', 'begin', '1 message p kept outside', 'commit 1'],
    )
  })

  it('definitions of tables that change between transactions and in the middle of one', async () => {
    assert.deepEqual(
      await sees(
        'CREATE TABLE s (id int PRIMARY KEY)',
        'INSERT INTO s VALUES (1)',
        'ALTER TABLE s ADD COLUMN a text',
        `INSERT INTO s VALUES (2, 'x')`,
        `BEGIN; INSERT INTO s VALUES (3, 'y'); ALTER TABLE s DROP COLUMN a; ALTER TABLE s ADD COLUMN b bigint DEFAULT 5; INSERT INTO s VALUES (4); COMMIT`,
        'DROP TABLE s',
        'CREATE TABLE s (name text PRIMARY KEY)',
        `INSERT INTO s VALUES ('again')`,
        'ALTER TABLE s RENAME TO s2',
        `INSERT INTO s2 VALUES ('renamed')`,
      ),
      [
        'begin', 'schema s(id int4)', '1 insert public.s - {id=1}', 'commit 1',
        'begin', 'schema s(id int4, a text)', '1 insert public.s - {id=2 a=x}', 'commit 1',
        'begin', '1 insert public.s - {id=3 a=y}', 'schema s(id int4, b int8)', '2 insert public.s - {id=4 b=5}', 'commit 2',
        'begin', 'schema s(name text)', '1 insert public.s - {name=again}', 'commit 1',
        'begin', 'schema s2(name text)', '1 insert public.s2 - {name=renamed}', 'commit 1',
      ],
    )
  })

  it('a transaction of 300,000 rows, and a row of 20 MB', async () => {
    await sees('CREATE TABLE many (id int PRIMARY KEY, v text)')
    const [begin, , ...rows] = await events('INSERT INTO many SELECT g, g::text FROM generate_series(1, 300000) g')
    assert.equal(begin.kind, 'begin')
    assert.equal(rows.length, 300_001)
    assert.ok(rows.slice(0, -1).every((event, i) => event.kind === 'insert' && event.index === i + 1 && event.after['id'] === i + 1))
    const [, large] = await events(`INSERT INTO many SELECT 0, repeat('0123456789', 2000000)`)
    assert.equal(large.kind === 'insert' && large.after['v'], '0123456789'.repeat(2_000_000))
  })
})

describe('a filter', () => {
  it('gives the same changes at the same positions, less what was not asked for', async () => {
    await sees('CREATE TABLE fa (id int PRIMARY KEY); CREATE TABLE fb (id int PRIMARY KEY); CREATE SCHEMA other; CREATE TABLE other.fa (id int PRIMARY KEY)')
    const from = all.events.at(-1)!.position
    const seen = await events(
      'INSERT INTO fa VALUES (1)',
      'INSERT INTO fb VALUES (1)',
      `BEGIN; INSERT INTO fb VALUES (2); INSERT INTO fa VALUES (2); INSERT INTO fb VALUES (3); INSERT INTO other.fa VALUES (2); DELETE FROM fa WHERE id = 1; SELECT pg_logical_emit_message(true, 'p', 'm'); COMMIT`,
      'TRUNCATE fa, fb',
      'UPDATE fb SET id = 9; INSERT INTO fa VALUES (7)',
    )
    const filters: { options: SubscribeOptions; keeps: (event: ChangeEvent) => boolean }[] = [
      { options: { tables: ['public.fa'] }, keeps: (event) => 'table' in event && event.kind !== 'schema' ? event.table.schema === 'public' && event.table.name === 'fa' : true },
      { options: { tables: ['*.f?'], operations: ['delete', 'truncate'] }, keeps: (event) => event.kind === 'delete' || event.kind === 'truncate' },
      { options: { tables: ['other.*'], operations: ['insert'] }, keeps: (event) => event.kind === 'insert' && event.table.schema === 'other' },
      { options: { operations: ['message'] }, keeps: (event) => event.kind === 'message' },
    ]
    const isChange = (event: ChangeEvent) => !['begin', 'commit', 'schema', 'progress'].includes(event.kind)
    const place = (event: ChangeEvent) => `${event.kind === 'progress' ? '' : event.transaction.lsn} ${line(event)}`
    for (const { options, keeps } of filters) {
      const expected = seen.filter((event) => isChange(event) && keeps(event)).map(place)
      const last = seen.findLast((event) => event.kind === 'commit')!
      await using filtered = follow({ ...options, from, progress: true })
      await filtered.until('everything was passed', () => {
        const { subscription } = filtered
        return BigInt(`0x${(subscription.position ?? '0/0').split(':')[0].split('/').map((half) => half.padStart(8, '0')).join('')}`) >= last.transaction.lsn
      })
      const got = filtered.events.filter((event) => isChange(event) && !(event.kind === 'message' && event.prefix === 'end')).map(place)
      assert.deepEqual(got, expected)
      const commits = filtered.events.filter((event) => event.kind === 'commit')
      for (const commit of commits) {
        const whole = seen.find((event) => event.kind === 'commit' && event.transaction.lsn === commit.transaction.lsn)
        if (whole) assert.equal(commit.changes, (whole as typeof commit).changes)
      }
      // A filtered subscriber's position serves an unfiltered one.
      const firstCommit = commits[0]
      if (firstCommit) {
        await using unfiltered = follow({ from: firstCommit.position })
        await unfiltered.until('what follows has come', () => unfiltered.events.some((event) => event.kind === 'message' && event.prefix === 'end'))
      }
    }
  })
})

describe('beginning', () => {
  it('at now, a time, or a position within a transaction', async () => {
    await sees('CREATE TABLE w (id int PRIMARY KEY)')
    await using now = follow({ from: 'now' })
    await now.until('it has begun', () => now.subscription.position !== undefined)
    const seen = await events('INSERT INTO w VALUES (1)', 'INSERT INTO w VALUES (2), (3), (4)', 'INSERT INTO w VALUES (5)')
    const ids = (collector: Collector) => collector.rows.filter(({ table }) => table.name === 'w').map(({ after }) => after!['id'])
    await now.until('the last has come', () => ids(now).includes(5))
    assert.deepEqual(ids(now), [1, 2, 3, 4, 5])

    const inserts = seen.filter((event) => event.kind === 'insert')
    await using middle = follow({ from: inserts[1].position })
    await middle.until('the last has come', () => ids(middle).includes(5))
    assert.deepEqual(ids(middle), [3, 4, 5])

    await using since = follow({ from: { micros: inserts[1].transaction.micros } })
    await since.until('the last has come', () => ids(since).includes(5))
    assert.deepEqual(ids(since), [2, 3, 4, 5])
  })
})

/** The service as its operator and its subscribers meet it: start, stop, slot, status, durable consumers, retention. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { connect, subscribe, type SubscribeOptions } from '../../src/transport/client.ts'
import { startCdc, type TestCdc } from '../support/cdc.ts'
import { Collector } from '../support/collector.ts'
import { startPostgres, until, type TestPostgres } from '../support/postgres.ts'

function follow(cdc: TestCdc, options: SubscribeOptions): Collector {
  return new Collector(subscribe({ ...cdc.connect, ...options, reconnect: { minMs: 20, maxMs: 200, connectTimeoutMs: 20_000 } }))
}
const ids = (collector: Collector) => collector.rows.map(({ after }) => after!['id'])
const insert = (postgres: TestPostgres, from: number, to = from) => postgres.query(`INSERT INTO t SELECT generate_series(${from}, ${to})`)

async function status(cdc: TestCdc) {
  await using client = connect(cdc.connect)
  return await client.status()
}

describe('the service', () => {
  it('publishes a list of tables when it is told to', async () => {
    await using postgres = await startPostgres()
    await postgres.query('CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY); CREATE SCHEMA s; CREATE TABLE s."V v" (id int PRIMARY KEY)')
    // A superuser may create publications of others' tables.
    await using cdc = await startCdc(postgres, ['--user', 'postgres', '--publication', 'some', '--tables', 'public.t,s.V v'])
    await using reader = follow(cdc, { from: 'beginning' })
    await postgres.query('INSERT INTO u VALUES (1)')
    await postgres.query('INSERT INTO t VALUES (2)')
    await postgres.query('INSERT INTO s."V v" VALUES (3)')
    await reader.until('three has come', () => ids(reader).includes(3))
    assert.deepEqual(ids(reader), [2, 3])
  })

  it('moves the slot of an idle database while another one is busy', async () => {
    await using postgres = await startPostgres()
    await postgres.query('CREATE DATABASE busy')
    await using cdc = await startCdc(postgres, ['--idle-mark', '20'])
    await postgres.query('CREATE TABLE b AS SELECT * FROM generate_series(1, 50000)', 'busy')
    const end = (await postgres.query('SELECT pg_current_wal_lsn()::text'))[0][0]
    await until('the slot has followed', async () => (await postgres.query(`SELECT confirmed_flush_lsn >= '${end}' FROM pg_replication_slots`))[0][0] === 't')
    const { log } = await status(cdc)
    assert.equal(log.transactions, 0n)
    // And the next start finds slot and log together.
    assert.equal(await cdc.stop(), 0)
    await cdc.start()
    await using reader = follow(cdc, { from: 'beginning' })
    await postgres.query('CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)')
    await reader.until('one has come', () => ids(reader).includes(1))
  })

  it('tells subscribers when it stops, and they go on when it is back', async () => {
    await using postgres = await startPostgres()
    await postgres.query('CREATE TABLE t (id int PRIMARY KEY)')
    await using cdc = await startCdc(postgres, ['--heartbeat', '500'])
    const failures: string[] = []
    await using reader = follow(cdc, { from: 'beginning', onState: (state) => state.status === 'waiting' && failures.push(state.error.code) })
    await insert(postgres, 1)
    await reader.until('one has come', () => ids(reader).includes(1))
    assert.equal(await cdc.stop('SIGTERM'), 0)
    await until('the subscriber knows', () => failures.length > 0)
    assert.equal(failures[0], 'SHUTDOWN')
    await insert(postgres, 2)
    await cdc.start()
    await insert(postgres, 3)
    await reader.until('three has come', () => ids(reader).includes(3))
    assert.deepEqual(ids(reader), [1, 2, 3])
    assert.match(cdc.log(), /stopping/)
  })

  it('keeps cursors of durable consumers over restarts, for one stream at a time', async () => {
    await using postgres = await startPostgres()
    await postgres.query('CREATE TABLE t (id int PRIMARY KEY)')
    await using cdc = await startCdc(postgres, ['--heartbeat', '100'])
    await insert(postgres, 1)
    await insert(postgres, 2)
    {
      await using consumer = follow(cdc, { consumer: 'billing', from: 'beginning', acknowledge: 'manual' })
      await insert(postgres, 3)
      await consumer.until('three has come', () => consumer.commits.length === 3)
      assert.deepEqual(ids(consumer), [1, 2, 3])
      consumer.subscription.acknowledge(consumer.commits[1].position)
      await until('the cursor has moved', async () => {
        const { subscribers } = await status(cdc)
        assert.equal(subscribers[0].consumer, 'billing')
        assert.equal(subscribers[0].connected, true)
        return subscribers[0].acknowledged?.lsn === consumer.commits[1].transaction.lsn
      })
      let busy = ''
      const second = follow(cdc, { consumer: 'billing', onState: (state) => state.status === 'waiting' && (busy ||= state.error.code) })
      await until('the second one is refused', () => busy !== '')
      assert.equal(busy, 'CONSUMER_BUSY')
      await second[Symbol.asyncDispose]()
    }
    assert.equal(await cdc.stop(), 0)
    await cdc.start()
    const [absent] = (await status(cdc)).subscribers
    assert.equal(absent.consumer, 'billing')
    assert.equal(absent.connected, false)
    {
      await using consumer = follow(cdc, { consumer: 'billing' })
      await consumer.until('three has come again', () => consumer.commits.length === 1)
      assert.deepEqual(ids(consumer), [3])
    }
    // What was acknowledged while closing counts, too, also through a crash a moment later.
    await until('the cursor is at the end', async () => {
      const { subscribers, log } = await status(cdc)
      return subscribers[0]?.acknowledged?.lsn === log.head.lsn
    })
    await until('it is on disk', async () => (await import('node:fs')).readFileSync(`${cdc.dataDirectory}/log/consumers/billing.json`, 'utf8').includes((await status(cdc)).log.head.lsn.toString(16).toUpperCase()))
    await cdc.stop('SIGKILL')
    await cdc.start()
    await using consumer = follow(cdc, { consumer: 'billing' })
    await insert(postgres, 4)
    await consumer.until('four has come', () => ids(consumer).includes(4))
    assert.deepEqual(ids(consumer), [4])
  })

  it('says what it does', async () => {
    await using postgres = await startPostgres()
    await postgres.query('CREATE TABLE t (id int PRIMARY KEY)')
    await using cdc = await startCdc(postgres, ['--heartbeat', '100'])
    await using reader = follow(cdc, { from: 'beginning' })
    await insert(postgres, 1, 10)
    await reader.until('all has come', () => reader.commits.length === 1)
    await until('the subscriber is seen to be there', async () => (await status(cdc)).subscribers[0]?.acknowledged?.lsn === reader.commits[0].transaction.lsn)
    const seen = await status(cdc)
    assert.equal(seen.state, 'streaming')
    assert.equal(seen.error, null)
    assert.equal(seen.database, 'postgres')
    assert.equal(seen.systemId, (await postgres.query('SELECT system_identifier::text FROM pg_control_system()'))[0][0])
    assert.equal(seen.slot.name, 'beyond_cdc')
    assert.equal(seen.log.transactions, 1n)
    assert.equal(seen.log.changes, 10n)
    assert.equal(seen.log.head.lsn, reader.commits[0].transaction.lsn)
    assert.equal(seen.subscribers[0].peer, 'test client')
    assert.equal(seen.subscribers[0].lagBytes, 0n)
    await postgres.stop('SIGKILL')
    await until('it is seen to wait for Postgres', async () => (await status(cdc)).state === 'reconnecting')
    assert.match((await status(cdc)).error!, /^POSTGRES_UNAVAILABLE: /)
    await postgres.start()
    await insert(postgres, 11)
    await reader.until('it goes on', () => ids(reader).includes(11))
  })

  it('removes old segments, and says so to whom it matters', async () => {
    await using postgres = await startPostgres()
    await postgres.query('CREATE TABLE t (id int PRIMARY KEY)')
    await using cdc = await startCdc(postgres, ['--segment-bytes', '64kB', '--keep-bytes', '256kB'])
    await insert(postgres, 1)
    let position: string
    {
      await using reader = follow(cdc, { from: 'beginning' })
      await reader.until('one has come', () => reader.commits.length === 1)
      position = reader.commits[0].position
    }
    for (let i = 0; i < 30; i++) await insert(postgres, 1000 * (i + 1), 1000 * (i + 1) + 600)
    await until('segments were removed', async () => (await status(cdc)).log.bytes < 400_000n && (await status(cdc)).log.oldest.lsn > 0n && (await status(cdc)).log.segments < 8, 30_000)
    await using late = follow(cdc, { from: position })
    assert.equal((await late.failure()).code, 'POSITION_TOO_OLD')
    await using fresh = follow(cdc, { from: 'beginning' })
    await fresh.until('the last has come', () => ids(fresh).includes(30_600))
    assert.ok(!ids(fresh).includes(1))
  })
})

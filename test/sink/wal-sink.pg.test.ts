/** The sink against a real Postgres: what it receives, keeps and serves. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { segmentOf } from '../../src/wal/segment-name.ts'
import { startPostgres, until } from '../support/postgres.ts'
import { conninfoOf, flushedTo, flushLsn, readObject, runSink, temporaryDirectory, untilActivity, untilSync } from '../support/sink.ts'

const first = { generation: 1n, by: 'box-a' }
const SYNC = { synchronous_standby_names: 'ANY 1 (sink1)' }

it('keeps exactly the bytes that the primary wrote, and serves the last segment too', async () => {
  await using postgres = await startPostgres({ wal_keep_size: '1GB' })
  using folder = temporaryDirectory()
  await using running = await runSink(folder.path)
  const { sink } = running
  assert.equal(sink.status().activity, 'idle')
  await sink.attach({ ...first, conninfo: conninfoOf(postgres) })
  await untilActivity(sink, 'streaming')
  await postgres.query('CREATE TABLE t AS SELECT i, repeat(md5(i::text), 10) AS x FROM generate_series(1, 50000) i')
  await postgres.query('SELECT pg_switch_wal()')
  await postgres.query('INSERT INTO t VALUES (0)')
  const end = await flushLsn(postgres)
  await flushedTo(sink, end)
  await until('closed segments are put away', async () => (await sink.segments()).filter(({ kind, sha256 }) => kind === 'closed' && sha256 !== undefined).length >= 2)
  const segments = await sink.segments()
  assert.equal(segments.at(-1)?.kind, 'partial')
  for (const { name, kind, start, end: until_ } of segments) {
    const theirs = readFileSync(join(postgres.dataDirectory, 'pg_wal', name))
    await using object = await sink.openSegment(name)
    const ours = await readObject(object)
    assert.equal(ours.length, theirs.length)
    const length = kind === 'closed' ? theirs.length : Number(until_ - start)
    assert.ok(ours.subarray(0, length).equals(theirs.subarray(0, length)), `${name} differs`)
    assert.ok(ours.subarray(length).every((byte) => byte === 0))
    // A range from the middle of what is compressed.
    const pieces = []
    for await (const piece of object.read(100_000, 400_000)) pieces.push(piece)
    assert.ok(Buffer.concat(pieces).equals(ours.subarray(100_000, 400_000)))
  }
  assert.deepEqual((await sink.verify(AbortSignal.timeout(20_000))).faults, [])
  await assert.rejects(sink.openSegment('000000010000000000000099'), { code: 'NOT_FOUND' })
  await assert.rejects(sink.openSegment('../../etc/passwd'), { code: 'BAD_REQUEST' })
})

it('rests before the disk is full, and goes on by itself', async () => {
  await using postgres = await startPostgres(SYNC)
  using folder = temporaryDirectory()
  let free = 1e12
  await using running = await runSink(folder.path, { freeBytes: () => Promise.resolve(free) })
  const { sink } = running
  await sink.attach({ ...first, conninfo: conninfoOf(postgres) })
  await untilSync(postgres)
  await postgres.query('CREATE TABLE t (id int)')
  free = 3 * 16 * 1024 * 1024 - 1
  await untilActivity(sink, 'disk-full')
  assert.equal(sink.status().problem?.code, 'DISK_FULL')
  await until('it is no member of the quorum', async () => (await postgres.query('SELECT count(*)::text FROM pg_stat_replication'))[0][0] === '0')
  const client = await postgres.client()
  const waiting = client.query('INSERT INTO t VALUES (1)')
  free = 1e12
  await untilActivity(sink, 'streaming')
  await waiting
  await client.end()
  assert.equal(sink.status().problem, undefined)
})

it('keeps what pins need, and removes the rest', async () => {
  await using postgres = await startPostgres()
  using folder = temporaryDirectory()
  await using running = await runSink(folder.path)
  const { sink } = running
  await sink.attach({ ...first, conninfo: conninfoOf(postgres) })
  await untilActivity(sink, 'streaming')
  for (let i = 0; i < 4; i++) await postgres.query(`SELECT pg_logical_emit_message(true, 'x', 'y'), pg_switch_wal()`)
  await flushedTo(sink, await flushLsn(postgres))
  await until('four are put away', () => sink.status().segments >= 4)
  const all = await sink.segments()
  const lsn = all[2].start
  await sink.setPin({ name: 'snapshot-1', lsn, expiresAt: undefined })
  await sink.setPin({ name: 'snapshot-0', lsn: all[1].start, expiresAt: new Date(Date.now() + 1_500).toISOString() })
  await until('the first is gone', async () => (await sink.segments())[0].start === all[1].start)
  await until('the second is gone when its pin has expired', async () => (await sink.segments())[0].start === lsn)
  assert.equal(sink.status().coverageStart, lsn)
  assert.equal(segmentOf(sink.status().floor ?? lsn, 16 * 1024 * 1024), segmentOf(lsn, 16 * 1024 * 1024))
  await assert.rejects(sink.openSegment(all[0].name), { code: 'NOT_FOUND' })
  await sink.removePin('snapshot-1')
  await sleep(500)
  // No pin at all: nobody has said what may go.
  assert.equal((await sink.segments())[0].start, lsn)
  // A start after a removal finds all that it should.
  await running.stop()
  await using again = await runSink(folder.path)
  await untilActivity(again.sink, 'streaming')
})

/** Seal, recovery from the sealed sink, attach to the new primary, and all of it again. */
import assert from 'node:assert/strict'
import { it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { startPostgres } from '../support/postgres.ts'
import { commits, conninfoOf, flushedTo, flushLsn, recoverFrom, runSink, saveBase, temporaryDirectory, untilActivity, untilSync } from '../support/sink.ts'

const first = { generation: 1n, by: 'box-a' }
const second = { generation: 2n, by: 'box-b' }

it('seals: the old primary can acknowledge nothing more, and a recovery has all that it did', async () => {
  await using postgres = await startPostgres()
  using folder = temporaryDirectory()
  using base = await saveBase(postgres)
  await postgres.query(`ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (sink1)'`)
  const running = await runSink(folder.path)
  await running.sink.attach({ ...first, conninfo: conninfoOf(postgres) })
  await untilActivity(running.sink, 'streaming')
  await postgres.query('SELECT pg_reload_conf()')
  await untilSync(postgres)
  await postgres.query('CREATE TABLE t (id int PRIMARY KEY, x text)')
  await commits(postgres, 50, (i) => `INSERT INTO t VALUES (${i + 1}, repeat('x', ${i * 50}))`)

  const sealed = await running.sink.seal(second)
  assert.ok(sealed.position)
  assert.equal(running.sink.status().activity, 'sealed')
  // Again by the same box: the same. By others: never.
  assert.deepEqual(await running.sink.seal(second), sealed)
  await assert.rejects(running.sink.seal({ generation: 2n, by: 'box-c' }), { code: 'GENERATION_TAKEN' })
  await assert.rejects(running.sink.attach({ ...first, conninfo: conninfoOf(postgres) }), { code: 'STALE_GENERATION' })
  await assert.rejects(running.sink.attach({ generation: 2n, by: 'box-c', conninfo: conninfoOf(postgres) }), { code: 'GENERATION_TAKEN' })

  const late = await postgres.client()
  let acknowledged = false
  const waiting = late.query('INSERT INTO t VALUES (1000)').then(() => (acknowledged = true), () => {})
  await sleep(800)
  assert.equal(acknowledged, false, 'the old primary acknowledged a commit after the seal')
  // Nor after a restart of the sink: a seal is durable.
  await running.stop()
  await using again = await runSink(folder.path)
  await sleep(500)
  assert.equal(again.sink.status().activity, 'sealed')
  assert.equal(acknowledged, false)
  assert.deepEqual(again.sink.status().seal?.position, sealed.position)
  await postgres.stop('SIGKILL')
  await waiting

  await recoverFrom(postgres, base.path, again.sink)
  const rows = (await postgres.query('SELECT id FROM t ORDER BY id')).map(([id]) => Number(id))
  assert.deepEqual(rows, Array.from({ length: 50 }, (_, i) => i + 1))
  assert.equal((await postgres.query('SELECT timeline_id::text FROM pg_control_checkpoint()'))[0][0], '2')

  // The new primary has a timeline of its own, and the sink goes on there.
  await again.sink.attach({ ...second, conninfo: conninfoOf(postgres) })
  await untilActivity(again.sink, 'streaming')
  await postgres.query('INSERT INTO t VALUES (2000)')
  await flushedTo(again.sink, await flushLsn(postgres))
  assert.equal(again.sink.status().flushed?.timeline, 2)
  assert.equal(again.sink.status().problem, undefined)
  assert.deepEqual((await again.sink.histories()).map(({ name }) => name), ['00000002.history'])
  const report = await again.sink.verify(AbortSignal.timeout(20_000))
  assert.deepEqual(report.faults, [])
  assert.deepEqual(report.gaps, [])
  // A second recovery from what it now holds: both timelines.
  await again.sink.seal({ generation: 3n, by: 'box-d' })
  await postgres.stop('SIGKILL')
  await recoverFrom(postgres, base.path, again.sink)
  assert.equal((await postgres.query('SELECT count(*)::text FROM t'))[0][0], '51')
})

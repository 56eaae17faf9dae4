/** Three sinks, of which two have to confirm. */
import assert from 'node:assert/strict'
import { it } from 'node:test'
import { startPostgres } from '../support/postgres.ts'
import { commits, conninfoOf, flushedTo, flushLsn, receiverOf, recoverFrom, runSink, saveBase, temporaryDirectory, untilActivity, untilSync } from '../support/sink.ts'

const first = { generation: 1n, by: 'box-a' }
const second = { generation: 2n, by: 'box-b' }

it('needs two of three sinks, and recovers from the furthest of any two', async () => {
  await using postgres = await startPostgres()
  await postgres.query('CREATE TABLE t (id int PRIMARY KEY)')
  using base = await saveBase(postgres)
  using one = temporaryDirectory()
  using two = temporaryDirectory()
  using three = temporaryDirectory()
  const folders = [one, two, three]
  await using owned = new AsyncDisposableStack()
  const sinks = []
  for (const [i, folder] of folders.entries()) {
    const { sink } = owned.use(await runSink(folder.path, { name: `sink${i + 1}` }))
    await sink.attach({ ...first, conninfo: conninfoOf(postgres) })
    sinks.push(sink)
  }
  for (const sink of sinks) await untilActivity(sink, 'streaming')
  await postgres.query(`ALTER SYSTEM SET synchronous_standby_names = 'ANY 2 (sink1, sink2, sink3)'`)
  await postgres.query('SELECT pg_reload_conf()')
  await untilSync(postgres, 3)
  await postgres.query('INSERT INTO t VALUES (1)')
  // One stands still: commits go on without it, and it falls behind.
  process.kill(receiverOf(one.path), 'SIGSTOP')
  await commits(postgres, 29, (i) => `INSERT INTO t VALUES (${i + 2})`)
  await postgres.stop('SIGKILL')
  // The third is out of reach. Two of three are enough to meet every quorum of two.
  const sealed = await Promise.all(sinks.slice(0, 2).map((sink) => sink.seal(second)))
  assert.ok(sealed[0].position!.lsn < sealed[1].position!.lsn)
  await recoverFrom(postgres, base.path, sinks[1])
  assert.equal((await postgres.query('SELECT count(*)::text FROM t'))[0][0], '30')
  // The one that was behind goes on from where it was, over the switch.
  await sinks[0].attach({ ...second, conninfo: conninfoOf(postgres) })
  await postgres.query('INSERT INTO t VALUES (31)')
  await flushedTo(sinks[0], await flushLsn(postgres))
  assert.equal(sinks[0].status().flushed?.timeline, 2)
  assert.deepEqual((await sinks[0].verify(AbortSignal.timeout(20_000))).faults, [])
})

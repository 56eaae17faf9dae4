/** What a sink refuses: other clusters, older volumes, and its own folder when it is not what it was. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { startPostgres, until } from '../support/postgres.ts'
import { conninfoOf, flushedTo, flushLsn, runSink, saveBase, temporaryDirectory, untilActivity } from '../support/sink.ts'

const first = { generation: 1n, by: 'box-a' }

it('refuses another cluster, an older volume, and a folder that was put back', async () => {
  await using postgres = await startPostgres()
  using folder = temporaryDirectory()
  using copy = temporaryDirectory()
  using stale = await saveBase(postgres)
  const running = await runSink(folder.path)
  await running.sink.attach({ ...first, conninfo: conninfoOf(postgres) })
  await untilActivity(running.sink, 'streaming')
  await postgres.query('CREATE TABLE t AS SELECT 1')
  await flushedTo(running.sink, await flushLsn(postgres))
  await running.stop()
  cpSync(folder.path, copy.path, { recursive: true })

  {
    await using again = await runSink(folder.path)
    // Restarted, it goes on where it was.
    await untilActivity(again.sink, 'streaming')
    await postgres.query('CREATE TABLE u AS SELECT i, md5(i::text) FROM generate_series(1, 300000) i')
    await flushedTo(again.sink, await flushLsn(postgres))
    await until('the slot has moved on', async () => {
      const rows = await postgres.query(`SELECT restart_lsn >= '0/3000000' FROM pg_replication_slots WHERE slot_name = 'sink1'`)
      return rows[0][0] === 't'
    })
  }
  {
    // An older state of the folder: the slot knows better.
    await using old = await runSink(copy.path)
    await untilActivity(old.sink, 'halted')
    assert.equal(old.sink.status().problem?.code, 'DATA_LOST')
  }
  {
    // Wiped: another identity, attached to nothing, and covering nothing of before.
    using empty = temporaryDirectory()
    const id = (await runSinkOnce(folder.path)).sinkId
    await using wiped = await runSink(empty.path)
    await sleep(300)
    assert.equal(wiped.sink.status().activity, 'idle')
    assert.notEqual(wiped.sink.status().sinkId, id)
    assert.equal(wiped.sink.status().flushed, undefined)
    assert.equal(wiped.sink.status().coverageStart, undefined)
  }
  // The state without the WAL, and the WAL without the state.
  rmSync(join(copy.path, 'sink.json'))
  await assert.rejects(runSink(copy.path), { code: 'DATA_LOST' })

  await postgres.stop('SIGKILL')
  rmSync(postgres.dataDirectory, { recursive: true })
  cpSync(stale.path, postgres.dataDirectory, { recursive: true })
  spawnChown(postgres.dataDirectory)
  await postgres.start()
  {
    await using ahead = await runSink(folder.path)
    await until('it refuses', () => ahead.sink.status().problem !== undefined)
    assert.equal(ahead.sink.status().problem?.code, 'HISTORY_DIVERGED')
    assert.notEqual(ahead.sink.status().activity, 'streaming')
  }
  await using other = await startPostgres()
  await using foreign = await runSink(folder.path)
  await foreign.sink.attach({ ...first, conninfo: conninfoOf(other) })
  await until('it refuses', () => foreign.sink.status().problem?.code === 'WRONG_SYSTEM')
  assert.equal((await other.query('SELECT count(*)::text FROM pg_replication_slots'))[0][0], '0')
})

async function runSinkOnce(directory: string): Promise<{ readonly sinkId: string }> {
  await using once = await runSink(directory)
  return { sinkId: once.sink.status().sinkId }
}

function spawnChown(directory: string): void {
  if (process.getuid?.() === 0) spawnSync('chown', ['-R', '65534:65534', directory])
}

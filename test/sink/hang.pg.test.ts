/** Processes that hang: a receiver that hears no signal, a walsender that sends nothing. */
import assert from 'node:assert/strict'
import { it } from 'node:test'
import { startPostgres, until } from '../support/postgres.ts'
import { conninfoOf, flushedTo, flushLsn, receiverOf, runSink, temporaryDirectory, untilActivity } from '../support/sink.ts'

const first = { generation: 1n, by: 'box-a' }
const second = { generation: 2n, by: 'box-b' }

it('seals although the receiver hears no signal, or the primary does not answer', async () => {
  await using postgres = await startPostgres()
  using folder = temporaryDirectory()
  const running = await runSink(folder.path)
  await running.sink.attach({ ...first, conninfo: conninfoOf(postgres) })
  await untilActivity(running.sink, 'streaming')
  await postgres.query('CREATE TABLE t AS SELECT 1')
  await flushedTo(running.sink, await flushLsn(postgres))
  const pid = receiverOf(folder.path)
  process.kill(pid, 'SIGSTOP')
  const { position } = await running.sink.seal(second)
  assert.ok(position)
  assert.throws(() => process.kill(pid, 0), { code: 'ESRCH' })
  await running.sink.attach({ ...second, conninfo: conninfoOf(postgres) })
  await untilActivity(running.sink, 'streaming')
  await running.stop()

  process.kill(postgres.pid, 'SIGSTOP')
  try {
    await using again = await runSink(folder.path)
    await untilActivity(again.sink, 'connecting')
    const began = performance.now()
    await again.sink.seal({ generation: 3n, by: 'box-c' })
    // Far less than what connecting may take.
    assert.ok(performance.now() - began < 4_000)
  } finally {
    process.kill(postgres.pid, 'SIGCONT')
  }
})

it('starts anew when the primary goes on and nothing comes', async () => {
  await using postgres = await startPostgres({ wal_sender_timeout: '0' })
  using folder = temporaryDirectory()
  await using running = await runSink(folder.path, { silenceMs: 1_000 })
  const { sink } = running
  await sink.attach({ ...first, conninfo: conninfoOf(postgres) })
  await untilActivity(sink, 'streaming')
  await postgres.query('CREATE TABLE t (id int)')
  await flushedTo(sink, await flushLsn(postgres))
  const receiver = receiverOf(folder.path)
  const [[walsender]] = await postgres.query(`SELECT pid::text FROM pg_stat_replication WHERE application_name = 'sink1'`)
  process.kill(Number(walsender), 'SIGSTOP')
  try {
    await postgres.query('INSERT INTO t VALUES (1)')
    await until('the receiver has been ended', () => {
      try {
        process.kill(receiver, 0)
        return false
      } catch {
        return true
      }
    })
  } finally {
    process.kill(Number(walsender), 'SIGCONT')
  }
  await flushedTo(sink, await flushLsn(postgres))
})

/** Bytes that are not what the primary wrote: put into quarantine, said, and never served as good. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync, writeSync, closeSync } from 'node:fs'
import { join } from 'node:path'
import { it } from 'node:test'
import { startPostgres, until } from '../support/postgres.ts'
import { commits, conninfoOf, flushedTo, flushLsn, readObject, runSink, temporaryDirectory, untilActivity } from '../support/sink.ts'

const first = { generation: 1n, by: 'box-a' }

function flip(path: string, at: number): void {
  const file = openSync(path, 'r+')
  writeSync(file, Buffer.from([readFileSync(path)[at] ^ 1]), 0, 1, at)
  closeSync(file)
}

it('finds a flipped bit in what is put away', async () => {
  await using postgres = await startPostgres()
  using folder = temporaryDirectory()
  await using running = await runSink(folder.path)
  const { sink } = running
  await sink.attach({ ...first, conninfo: conninfoOf(postgres) })
  await untilActivity(sink, 'streaming')
  await postgres.query('CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 100000) i')
  await postgres.query('SELECT pg_switch_wal()')
  await until('two are put away', () => sink.status().segments >= 2)
  const [one, two] = await sink.segments()
  const path = join(folder.path, 'segments', `${one.name}.zst`)
  flip(path, readFileSync(path).length >> 1)
  const report = await sink.verify(AbortSignal.timeout(20_000))
  assert.deepEqual(report.faults.map(({ name }) => name), [one.name])
  assert.equal(sink.status().quarantined, 1)
  assert.equal(readdirSync(join(folder.path, 'quarantine')).length, 1)
  await assert.rejects(sink.openSegment(one.name), { code: 'NOT_FOUND' })
  await using good = await sink.openSegment(two.name)
  assert.equal((await readObject(good)).length, good.bytes)
})

it('finds a flipped bit behind the receiver', async () => {
  await using postgres = await startPostgres()
  using folder = temporaryDirectory()
  const running = await runSink(folder.path)
  await running.sink.attach({ ...first, conninfo: conninfoOf(postgres) })
  await untilActivity(running.sink, 'streaming')
  await postgres.query('CREATE TABLE t (id int, x text)')
  await flushedTo(running.sink, await flushLsn(postgres))
  await running.stop()
  // What comes while nobody follows is closed, and then one bit of it turns.
  await postgres.query(`INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 150000) i`)
  await postgres.query('SELECT pg_switch_wal()')
  const wal = join(folder.path, 'wal')
  const partial = readdirSync(wal).find((name) => name.endsWith('.partial'))!
  const name = partial.slice(0, 24)
  cpSync(join(postgres.dataDirectory, 'pg_wal', name), join(wal, name))
  rmSync(join(wal, partial))
  flip(join(wal, name), 12 * 1024 * 1024)
  await using again = await runSink(folder.path)
  assert.equal(again.sink.status().activity, 'halted')
  assert.equal(again.sink.status().problem?.code, 'WAL_CORRUPT')
  assert.equal(again.sink.status().quarantined, 1)
  await assert.rejects(again.sink.seal({ generation: 2n, by: 'box-b' }), { code: 'WAL_CORRUPT' })
})

it('keeps what was confirmed when the same segment comes again with other bytes', async () => {
  await using postgres = await startPostgres()
  using folder = temporaryDirectory()
  const running = await runSink(folder.path)
  await running.sink.attach({ ...first, conninfo: conninfoOf(postgres) })
  await untilActivity(running.sink, 'streaming')
  // The volume as it was, and then what is acknowledged and not in it.
  await postgres.query('CREATE TABLE t (x text)')
  await flushedTo(running.sink, await flushLsn(postgres))
  await postgres.stop('SIGQUIT')
  using stale = temporaryDirectory()
  cpSync(postgres.dataDirectory, stale.path, { recursive: true })
  await postgres.start()
  await commits(postgres, 20, (i) => `INSERT INTO t VALUES ('confirmed ${i}')`)
  const confirmed = await flushLsn(postgres)
  await flushedTo(running.sink, confirmed)
  await running.stop()
  await postgres.stop('SIGKILL')
  rmSync(postgres.dataDirectory, { recursive: true })
  cpSync(stale.path, postgres.dataDirectory, { recursive: true })
  if (process.getuid?.() === 0) spawnSync('chown', ['-R', '65534:65534', postgres.dataDirectory])
  await postgres.start()
  // It has gone on past the sink before the sink comes back: nothing but the bytes themselves can tell.
  await commits(postgres, 200, (i) => `INSERT INTO t VALUES ('other ${i}')`)
  assert.ok((await flushLsn(postgres)) > confirmed)

  await using again = await runSink(folder.path)
  await until('it has noticed', async () => {
    await postgres.query(`INSERT INTO t VALUES ('more')`)
    return again.sink.status().problem !== undefined
  })
  const { position } = await again.sink.seal({ generation: 2n, by: 'box-b' })
  assert.ok(position && position.lsn >= confirmed)
  const last = (await again.sink.segments()).at(-1)!
  await using object = await again.sink.openSegment(last.name)
  const bytes = (await readObject(object)).toString('latin1')
  assert.ok(bytes.includes('confirmed 19'))
  assert.ok(!bytes.includes('other 150'))
})

it('takes a partial file whose padding failed', async () => {
  await using postgres = await startPostgres()
  using folder = temporaryDirectory()
  await (await runSink(folder.path)).stop()
  const [[name]] = await postgres.query('SELECT pg_walfile_name(pg_current_wal_lsn())')
  const partial = join(folder.path, 'wal', `${name}.partial`)
  writeFileSync(partial, Buffer.alloc(8 * 1024 * 1024))
  await using running = await runSink(folder.path)
  await running.sink.attach({ ...first, conninfo: conninfoOf(postgres) })
  await untilActivity(running.sink, 'streaming')
  await postgres.query('CREATE TABLE t AS SELECT 1')
  await flushedTo(running.sink, await flushLsn(postgres))
  assert.ok(existsSync(partial))
})

/** kill -9 of receivers, sinks and the primary, under load: every acknowledged row is in what the sink holds. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { it } from 'node:test'
import { killStrayReceivers } from '../../src/wal/receive-wal.ts'
import { startPostgres, until } from '../support/postgres.ts'
import { recoverFrom, runSink, saveBase, temporaryDirectory, untilSync } from '../support/sink.ts'
import { sinkProcess } from '../support/sink-process.ts'

const ROUNDS = 3

/** Of this folder's receivers. */
function receivers(directory: string): number[] {
  return readdirSync('/proc').filter((name) => {
    if (!/^\d+$/.test(name)) return false
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'latin1')
      return readFileSync(`/proc/${name}/cmdline`, 'latin1').includes(`pg_receivewal\0-D\0${directory}/wal\0`) && !/\) [ZX] /.test(stat)
    } catch {
      return false
    }
  }).map(Number)
}

it('loses nothing that was acknowledged', async () => {
  await using postgres = await startPostgres()
  using folder = temporaryDirectory()
  await postgres.query('CREATE TABLE t (worker int, id int, x text, PRIMARY KEY (worker, id))')
  using base = await saveBase(postgres)
  await postgres.query(`ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (sink1)'`)
  await using sink = await sinkProcess(folder.path, postgres)
  await sink.start()
  await postgres.query('SELECT pg_reload_conf()')
  await untilSync(postgres)

  const acknowledged = new Set<string>()
  let isOver = false
  const work = async (worker: number) => {
    const client = await postgres.client()
    for (let id = 1; !isOver; id++) {
      try {
        await client.query(`INSERT INTO t VALUES (${worker}, ${id}, repeat('${worker}', ${(id * 37) % 3000}))`)
        acknowledged.add(`${worker}/${id}`)
      } catch {
        return
      }
    }
  }
  const workers = [1, 2, 3].map(work)
  const more = async (what: string) => {
    const before = acknowledged.size
    await until(`commits go on after ${what}`, () => acknowledged.size > before + 30)
  }
  await more('the start')
  for (let round = 0; round < ROUNDS; round++) {
    for (const pid of receivers(sink.directory)) process.kill(pid, 'SIGKILL')
    await more('a receiver was killed')
    await sink.stop('SIGKILL')
    // The receiver goes on without it; the next sink ends it, and has its own.
    await sink.start()
    await until('there is one receiver', () => receivers(sink.directory).length === 1)
    await more('the sink was killed')
  }
  await postgres.stop('SIGKILL')
  isOver = true
  await Promise.all(workers)
  const answer = await sink.call('POST', '/v1/seal', { generation: '2', by: 'box' })
  assert.ok(answer['position'], JSON.stringify(answer))
  assert.equal(receivers(sink.directory).length, 0)
  assert.equal(await sink.stop(), 0)

  await using opened = await runSink(sink.directory)
  assert.equal(opened.sink.status().activity, 'sealed')
  assert.deepEqual((await opened.sink.verify(AbortSignal.timeout(20_000))).faults, [])
  await recoverFrom(postgres, base.path, opened.sink)
  const there = new Set((await postgres.query('SELECT worker, id FROM t')).map(([worker, id]) => `${worker}/${id}`))
  assert.deepEqual([...acknowledged].filter((row) => !there.has(row)), [])
  console.log(`# ${acknowledged.size} rows acknowledged, ${there.size} there`)
})

it('has one process at a folder, and says so', async () => {
  await using postgres = await startPostgres()
  using folder = temporaryDirectory()
  await using sink = await sinkProcess(folder.path, postgres)
  await sink.start()
  await using other = await sinkProcess(folder.path, postgres)
  await assert.rejects(other.start(), { exitCode: 5 })
  assert.match(other.log(), /\[LOCKED\]/)
  assert.equal(await sink.stop(), 0)
  assert.equal(receivers(sink.directory).length, 0)
  assert.equal(await killStrayReceivers(`${sink.directory}/wal`), 0)
})

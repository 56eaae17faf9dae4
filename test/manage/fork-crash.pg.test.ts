/** Forks that are cut off by kill -9 at every moment, and sources that do not run. */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { supervisorOf } from '../../src/manage/fork-process.ts'
import { Pgbench, preparePgbench } from '../support/pgbench.ts'
import { BoxProcess, freePorts, kill, processesIn, query, startArguments, superuserPassword, temporaryFolder, until } from './box-process.ts'
import { boxOf, checkBalance, checkPages, fork, forksOf, killedAt, list } from './fork-box.ts'

const seed = Number(process.env['BEYOND_TEST_SEED'] ?? Math.floor(Math.random() * 1e6))

test('forks that are cut off', async (t) => {
  const folder = temporaryFolder(t)
  const data = join(folder, 'source')
  const box = new BoxProcess(startArguments(data, await freePorts(), '--no-cdc'))
  const source = await box.ready()
  const target = { ...source.pooler, user: 'postgres', password: superuserPassword(source), database: 'postgres' }
  preparePgbench(target, 1)
  await query(source, 'DROP PUBLICATION IF EXISTS beyond; CREATE TABLE "Odd, Name" (id int PRIMARY KEY); CREATE PUBLICATION beyond FOR TABLE "Odd, Name", pgbench_tellers')
  const entries = (): string[] => readdirSync(forksOf(data)).filter((name) => !name.startsWith('.lock'))

  await t.test('leave nothing that looks like one, and nothing in the way', async (t) => {
    await using bench = new Pgbench(target, 2)
    const after = 50 + (seed % 400)
    t.diagnostic(`seed ${seed}: BEYOND_TEST_SEED=${seed}`)
    for (const moment of ['prepared', `after:${after}`, 'copied', 'identified', 'written']) {
      assert.equal(killedAt(data, 'a', moment).signal, 'SIGKILL', moment)
      assert.deepEqual(list(data), [], moment)
      assert.deepEqual(entries().filter((name) => name !== '.a.unfinished'), [], moment)
    }
    assert.equal(killedAt(data, 'a', 'placed').signal, 'SIGKILL')
    assert.deepEqual(list(data).map(({ name, state }) => [name, state]), [['a', 'stopped']])
    assert.deepEqual(entries(), ['a'])
    assert.match(readFileSync(join(forksOf(data), 'a/settings.conf'), 'utf8'), /^BEYOND_PG_NO_CDC=true$/m, 'as its source')
    assert.deepEqual((await bench.stop()).failures, [])
    const { path } = await fork(data, 'start', 'a')
    await until(() => existsSync(join(path, 'box.json')))
    await checkBalance(boxOf(path))
    const slots = await query(source, 'SELECT slot_name AS s FROM pg_replication_slots')
    assert.deepEqual(slots, [], 'their slots went with them')
  })

  await t.test('a fork whose supervisor was killed is stopped all the same', async () => {
    const path = join(forksOf(data), 'a')
    kill(supervisorOf(path)?.pid)
    await until(() => list(data)[0].state === 'stopped')
    assert.equal((await fork(data, 'stop', 'a')).state, 'stopped')
    assert.deepEqual(processesIn(path), [])
    await fork(data, 'remove', 'a')
    assert.ok(!existsSync(forksOf(data)))
  })

  await t.test('a source that was killed, or is stopped, can be forked; it does not start meanwhile', async () => {
    await query(source, 'CREATE TABLE last AS SELECT 42 AS word')
    for (const pid of processesIn(folder)) kill(pid)
    await box.ended
    await until(() => processesIn(folder).length === 0)
    const { path } = await fork(data, 'b')
    await until(() => existsSync(join(path, 'box.json')))
    assert.deepEqual(await query(boxOf(path), 'SELECT * FROM last'), [{ word: 42 }])
    await checkBalance(boxOf(path))
    await checkPages(boxOf(path))
    await fork(data, 'stop', 'b')
    const third = await fork(path, 'c', '--no-start')
    assert.equal(third.state, 'stopped')
    for (const name of ['b', 'c']) await fork(data, 'remove', name)
    assert.deepEqual(readdirSync(folder), ['source'])
  })
})

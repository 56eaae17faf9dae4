/** A box whose memory changes: what it is told, what it does about it, what an operator sees. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { Client } from 'pg'
import { call, socketPath } from '../../src/manage/rpc-client.ts'
import type { ScaleReport } from '../../src/manage/scale.ts'
import { beyondPg, freePorts, query, startBox, superuserPassword, temporaryFolder } from './box-process.ts'

test('a box that is given more memory takes it when asked, and shows before and after', async (t) => {
  const folder = temporaryFolder(t)
  const data = join(folder, 'box')
  const settings = join(folder, 'settings')
  writeFileSync(settings, 'BEYOND_PG_MEMORY_MB=512\n')
  const { box, file } = await startBox(data, await freePorts(), `--settings=${settings}`)
  const scale = (...args: string[]) => spawnSync(process.execPath, [beyondPg, 'scale', `--data=${data}`, ...args], { encoding: 'utf8' })
  const poolSize = (): number => Number(/^max_db_connections = (\d+)$/m.exec(readFileSync(join(data, 'pooler/pgbouncer.ini'), 'utf8'))?.[1])
  const show = async (name: string): Promise<unknown> => (await query(file, `SHOW ${name}`))[0][name]

  await t.test('nothing has changed: nothing is done', () => {
    const { status, stdout, stderr } = scale()
    assert.equal(status, 0, stderr)
    assert.match(stdout, /^memory +512MB +512MB$/m)
    assert.match(stdout, /^Postgres is tuned for this machine already\.$/m)
  })

  const client = new Client({ ...file.pooler, user: 'postgres', password: superuserPassword(file), database: 'postgres' })
  await client.connect()
  const before = poolSize()

  await t.test('a dry run shows what more memory would change', async () => {
    writeFileSync(settings, 'BEYOND_PG_MEMORY_MB=2048\n')
    const { waiting } = (await call(socketPath(data), 'reload')) as { waiting: { key: string }[] }
    assert.deepEqual(waiting.map(({ key }) => key), ['BEYOND_PG_MEMORY_MB'])
    const { status, stdout, stderr } = scale('--dry-run')
    assert.equal(status, 0, stderr)
    assert.match(stdout, /^memory +512MB +2GB$/m)
    assert.match(stdout, /^shared_buffers +128MB +512MB +restart$/m)
    assert.match(stdout, /^Nothing was done\.$/m)
    assert.equal(await show('shared_buffers'), '128MB')
  })

  await t.test('then it is applied; a client stays connected, and the pools grow with max_connections', async () => {
    const { status, stdout, stderr } = scale('--json')
    assert.equal(status, 0, stderr)
    const report = JSON.parse(stdout) as ScaleReport
    assert.equal(report.outcome, 'restarted')
    assert.deepEqual([report.before.memoryBytes, report.after.memoryBytes], [2 ** 29, 2 ** 31])
    t.diagnostic(`queries waited for ${report.stallMs} ms`)
    assert.deepEqual((await client.query('SHOW shared_buffers')).rows, [{ shared_buffers: '512MB' }])
    assert.ok(poolSize() > before, `${before}, then ${poolSize()}`)
    assert.ok(Number(await show('max_connections')) >= poolSize() + 20)
    assert.match(readFileSync(join(data, 'config/conf.d/01-tuning.conf'), 'utf8'), /^shared_buffers = '512MB'$/m)
  })

  await t.test('a tuning that does not start is taken back, and the user’s settings are not blamed for it', async () => {
    writeFileSync(join(data, 'config/conf.d/99-user.conf'), 'log_checkpoints = off\n')
    writeFileSync(settings, `BEYOND_PG_MEMORY_MB=${2 ** 24}\n`) // 16 TB, of which it would share 4
    await call(socketPath(data), 'reload')
    const { status, stdout } = scale()
    assert.equal(status, 1)
    assert.match(stdout, /^Taken back, since Postgres did not start with it: .*shared memory/m)
    assert.deepEqual((await client.query('SHOW shared_buffers')).rows, [{ shared_buffers: '512MB' }])
    assert.equal(await show('log_checkpoints'), 'off')
    assert.doesNotMatch(box.stderr, /NOT IN FORCE/)
  })

  await client.end()
  assert.deepEqual(await box.stop(), { code: 0, signal: null })
})

/** The operator's commands against a real box, each as a person would type it. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { statSync, writeFileSync } from 'node:fs'
import { get } from 'node:http'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { Client } from 'pg'
import { call, socketPath } from '../../src/manage/rpc-client.ts'
import type { BoxStatus } from '../../src/manage/status-facts.ts'
import { beyondPg, BoxProcess, freePorts, kill, query, startArguments, superuserPassword, temporaryFolder, until } from './box-process.ts'

type Ran = { readonly code: number; readonly stdout: string; readonly stderr: string }

function commandsOf(t: TestContext, data: string) {
  return (name: string, ...more: string[]): Promise<Ran> =>
    new Promise((resolve) => {
      const child = execFile(process.execPath, [beyondPg, name, `--data=${data}`, ...more], { timeout: 30_000 }, (_error, stdout, stderr) => {
        resolve({ code: child.exitCode ?? -1, stdout, stderr })
      })
      t.after(() => kill(child.exitCode === null ? child.pid : undefined))
    })
}

test('an operator and a running box', async (t) => {
  const folder = temporaryFolder(t)
  const data = join(folder, 'box')
  const ports = await freePorts()
  const { pooler: metricsPort } = await freePorts()
  const beyond = commandsOf(t, data)
  const nobody = await beyond('status')
  assert.deepEqual([nobody.code, nobody.stdout], [3, ''])
  assert.match(nobody.stderr, /There is no box in .*npm start/)

  const box = new BoxProcess(startArguments(data, ports, `--metrics-port=${metricsPort}`))
  const file = await box.ready()
  const ask = (method: string) => call(socketPath(data), method)
  const status = async (): Promise<BoxStatus> => (await ask('status')) as BoxStatus

  await t.test('status: a screen, and the same as JSON', async () => {
    const { code, stdout } = await beyond('status')
    assert.equal(code, 0, stdout)
    for (const wanted of [/^box {8}healthy/m, /^postgres {3}18\.\d+ primary {2}running/m, /^pooler {5}PgBouncer 1\.\d+/m, /^changes {4}streaming/m, /^protected {2}by this disk alone/m, /^slots {6}beyond_cdc {2}logical, read/m]) {
      assert.match(stdout, wanted)
    }
    assert.ok(stdout.split('\n').every((line) => line.length <= 100))
    const json = JSON.parse((await beyond('status', '--json')).stdout) as BoxStatus
    assert.equal(json.health.verdict, 'healthy')
    assert.deepEqual(json.children.map(({ name, status }) => [name, status]), ['postgres', 'pgbouncer', 'cdc'].map((name) => [name, 'running']))
    assert.ok(json.certificates.length === 3 && json.certificates.every(({ daysLeft }) => (daysLeft ?? 0) > 390))
  })

  await t.test('the socket is for the owner alone, and no secret is told', async () => {
    assert.equal(statSync(join(data, 'run/rpc.sock')).mode & 0o777, 0o600)
    const told = JSON.stringify([await ask('status'), await ask('metrics')]) + (await beyond('logs', '-n', '10000', '--json')).stdout
    assert.ok(!told.includes(superuserPassword(file)))
    assert.doesNotMatch(told, /SCRAM-SHA-256\$|PRIVATE KEY/)
  })

  await t.test('metrics, over the socket and over HTTP', async () => {
    const { stdout } = await beyond('metrics')
    for (const up of ['postgres', 'pooler', 'changes', 'query']) assert.match(stdout, new RegExp(`^beyond_pg_${up}_up 1$`, 'm'))
    const text = await new Promise<string>((resolve, reject) => {
      get({ host: '127.0.0.1', port: metricsPort, path: '/metrics' }, (response) => {
        response.setEncoding('utf8').reduce((all: string, part: string) => all + part, '').then(resolve, reject)
      }).on('error', reject)
    })
    assert.match(text, /^beyond_pg_healthy 1$/m)
    const names = (all: string) => all.split('\n').filter((line) => line.startsWith('# TYPE')).sort()
    assert.deepEqual(names(text), names(stdout))
  })

  await t.test('checkpoint: the last one is of now', async () => {
    await query(file, 'CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g')
    const before = Date.now()
    assert.match((await beyond('checkpoint')).stdout, /^Done in \d+ ms\.$/m)
    const { postgres } = await status()
    assert.ok('version' in postgres && Date.parse(postgres.checkpointAt) >= before - 1_000)
  })

  await t.test('reload: what is new counts, what waits and what is wrong is told', async () => {
    const user = join(data, 'config/conf.d/99-user.conf')
    writeFileSync(user, "work_mem = '9MB'\nmax_prepared_transactions = 3\n")
    assert.match((await beyond('reload')).stdout, /^Reloaded\.\nThese wait for a restart of Postgres: max_prepared_transactions\.$/m)
    assert.deepEqual(await query(file, 'SHOW work_mem'), [{ work_mem: '9MB' }])
    assert.deepEqual((await status()).health.findings.map(({ code }) => code), ['pending-restart'])
    writeFileSync(user, "work_mem = '11MB'\nmax_prepared_transactions = 0\n")
    assert.deepEqual(await ask('reload'), { applied: [], waiting: [], problems: [], pendingRestart: [], badSettings: [] })
    assert.deepEqual(await query(file, 'SHOW work_mem'), [{ work_mem: '11MB' }])
  })

  await t.test('pause holds every query back, resume lets it go; neither fails it', async () => {
    assert.match((await beyond('pause')).stdout, /^Paused after \d+ ms/)
    const held = query(file, 'SELECT 1 AS one')
    const sick = await beyond('health')
    assert.equal(sick.code, 5)
    assert.match(sick.stdout, /^unhealthy\nPROBLEM {4}PgBouncer is paused/)
    assert.match((await beyond('resume')).stdout, /Queries go on/)
    assert.deepEqual(await held, [{ one: 1 }])
    assert.equal((await beyond('health')).stdout, 'healthy\n')
    assert.deepEqual(await ask('resume'), {}, 'twice is harmless')
  })

  await t.test('pause gives up, and all goes on, when a transaction does not end', async () => {
    const open = new Client({ ...file.pooler, user: 'postgres', password: superuserPassword(file), database: 'postgres' })
    await open.connect()
    await open.query('BEGIN')
    const { code, stderr } = await beyond('pause', '--within', '0.2')
    assert.equal(code, 3)
    assert.match(stderr, /Transactions still ran after 200 ms, so nothing is paused/)
    assert.deepEqual((await open.query('SELECT 1 AS one')).rows, [{ one: 1 }])
    assert.equal((await query(file, 'SELECT 1')).length, 1)
    await open.query('COMMIT')
    await open.end()
  })

  await t.test('a primary is not promoted', async () => {
    const { code, stderr } = await beyond('promote')
    assert.equal(code, 2)
    assert.match(stderr, /is a primary already/)
  })

  await t.test('logs: the last lines, of one child, and as they come', async () => {
    const lines = (await beyond('logs', '-n', '3', '--child', 'postgres', '--json')).stdout.trimEnd().split('\n')
    assert.deepEqual(lines.map((line) => (JSON.parse(line) as { child: string }).child), ['postgres', 'postgres', 'postgres'])
    const follow = new BoxProcess(['logs', '-f', '-n', '0', `--data=${data}`])
    await until(async () => {
      await ask('checkpoint')
      return follow.stdout.includes('checkpoint complete')
    })
    assert.deepEqual(await follow.stop(), { code: 0, signal: null }, 'Ctrl-C ends it')
  })

  await t.test('a change stream that died is told, and then it is back', async () => {
    const { children } = await status()
    kill(children.find(({ name }) => name === 'cdc')?.pid ?? undefined)
    await until(async () => (await status()).children.some(({ name, restarts }) => name === 'cdc' && restarts > 0))
    await until(async () => (await status()).health.verdict === 'healthy')
  })

  await t.test('upgrade: another program, the same children', async () => {
    const before = await status()
    const { code, stdout, stderr } = await beyond('upgrade')
    assert.equal(code, 0, stderr)
    assert.equal(stdout, 'The new program runs.\n')
    const after = await status()
    assert.notEqual(after.box.startedAt, before.box.startedAt)
    assert.deepEqual(after.children.map(({ name, pid }) => [name, pid]), before.children.map(({ name, pid }) => [name, pid]))
  })

  await t.test('shutdown waits until the box is gone; its log can still be read', async () => {
    const { code, stdout } = await beyond('shutdown')
    assert.deepEqual([code, stdout], [0, 'The box is stopped.\n'])
    assert.deepEqual(await box.ended, { code: 0, signal: null })
    assert.match((await beyond('logs', '-n', '50')).stdout, /database system is shut down/)
    assert.equal((await beyond('logs', '-f')).code, 3)
  })
})

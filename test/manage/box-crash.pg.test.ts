import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { Client } from 'pg'
import { runTestBox, testConfig } from './box-in-process.ts'
import { call, socketPath } from '../../src/manage/rpc-client.ts'
import { type BoxProcess, freePorts, kill, processesIn, query, startBox, superuserPassword, temporaryFolder, until } from './box-process.ts'

/** While a child is down there is no record, so the number is another one too. */
function recordedPid(data: string, name: string): number | undefined {
  const path = join(data, 'run', `${name}.json`)
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as { pid: number }).pid : undefined
}

test('a box comes back from whatever is killed', async (t) => {
  const folder = temporaryFolder(t)
  const data = join(folder, 'box')
  const ports = await freePorts()
  let { box, file } = await startBox(data, ports)
  const count = async (): Promise<unknown> => (await query(file, 'SELECT count(*)::int AS n FROM kept'))[0]['n']
  const answers = (): Promise<boolean> => count().then(() => true, () => false)
  const restart = async (): Promise<BoxProcess> => {
    ;({ box, file } = await startBox(data, ports))
    return box
  }
  await query(file, 'CREATE TABLE kept (id int PRIMARY KEY)')
  if (process.getuid?.() === 0) {
    const score = (pid: unknown): string => readFileSync(`/proc/${String(pid)}/oom_score_adj`, 'utf8').trim()
    const [{ pid }] = await query(file, 'SELECT pg_backend_pid() AS pid')
    if (score(recordedPid(data, 'postgres')) === '-900') assert.equal(score(pid), '0', 'memory is taken from a backend, not from the postmaster')
  }
  let rows = 0
  const insert = (): Promise<unknown> => query(file, `INSERT INTO kept VALUES (${++rows})`)
  await insert()

  await t.test('PgBouncer is started again, alone', async () => {
    const [pooler, postgres] = [recordedPid(data, 'pgbouncer'), recordedPid(data, 'postgres')]
    kill(pooler)
    await until(() => recordedPid(data, 'pgbouncer') !== pooler)
    await until(answers)
    assert.equal(recordedPid(data, 'postgres'), postgres)
    await insert()
  })

  await t.test('Postgres is started again, though a backend of the old one is still busy', async () => {
    const busy = query(file, "SELECT count(*) FROM generate_series(1, 1e12)").catch(() => undefined)
    await until(async () => {
      const active = await query(file, "SELECT count(*)::int AS n FROM pg_stat_activity WHERE query LIKE '%1e12%' AND state = 'active'")
      return Number(active[0]['n']) >= 2 // it and this look itself
    })
    const postgres = recordedPid(data, 'postgres')
    kill(postgres)
    await until(() => recordedPid(data, 'postgres') !== postgres)
    await until(answers)
    await busy
    await insert()
    assert.equal(await count(), rows)
  })

  await t.test('kill -9 of the supervisor’s group: the next start adopts what runs, and keeps it alive', async () => {
    const before = ['postgres', 'pgbouncer'].map((name) => recordedPid(data, name))
    const client = new Client({ ...file.pooler, user: 'postgres', password: superuserPassword(file), database: 'postgres' })
    await client.connect()
    box.signal('SIGKILL')
    await box.ended
    await insert() // nobody has noticed
    await restart()
    // In the middle of a change that holds all queries back.
    await call(socketPath(data), 'pause')
    box.signal('SIGKILL')
    await box.ended
    await restart()
    assert.deepEqual(['postgres', 'pgbouncer'].map((name) => recordedPid(data, name)), before)
    assert.equal((await client.query('SELECT count(*)::int AS n FROM kept')).rows[0].n, rows)
    await client.end()
    const log = (): string => readFileSync(join(data, 'log/beyond-pg.log'), 'utf8')
    await query(file, "DO $$ BEGIN RAISE WARNING 'heard by the second'; END $$")
    await until(() => log().includes('heard by the second'))
    const [postgres, pooler] = before
    kill(postgres)
    await until(() => ![postgres, undefined].includes(recordedPid(data, 'postgres')))
    await until(answers)
    assert.equal(recordedPid(data, 'pgbouncer'), pooler)
    assert.equal(await count(), rows)
    await insert()
  })

  await t.test('a start that fails leaves what ran before as it is', async () => {
    const before = ['postgres', 'pgbouncer'].map((name) => recordedPid(data, name))
    box.signal('SIGKILL')
    await box.ended
    const onStep = (step: string): void => {
      if (step === 'roles and databases') throw new Error('a new version with a fault')
    }
    await assert.rejects(runTestBox(t, testConfig(data, ports), { onStep }), /a new version with a fault/)
    await insert()
    await restart()
    assert.deepEqual(['postgres', 'pgbouncer'].map((name) => recordedPid(data, name)), before)
    await insert()
  })

  await t.test('kill -9 of every process at once', async () => {
    for (const pid of processesIn(folder)) kill(pid)
    await box.ended
    await restart()
    assert.equal(await count(), rows)
    await insert()
  })

  await t.test('the number of the dead postmaster belongs to another process of the same account', async () => {
    for (const pid of processesIn(folder)) kill(pid)
    await box.ended
    await until(() => processesIn(folder).length === 0)
    const { uid, gid } = statSync(join(data, 'postgres'))
    const stranger = spawn('sleep', ['600'], { uid, gid })
    const pidFile = join(data, 'postgres/postmaster.pid')
    const lines = readFileSync(pidFile, 'utf8').split('\n')
    writeFileSync(pidFile, [String(stranger.pid), ...lines.slice(1)].join('\n'))
    writeFileSync(join(data, `run/sockets/.s.PGSQL.${ports.postgres}.lock`), `${stranger.pid}\n`)
    writeFileSync(join(data, 'run/pgbouncer.json'), JSON.stringify({ pid: stranger.pid, startTime: '1', bootId: 'x' }))
    try {
      await restart()
      assert.equal(await count(), rows)
      assert.equal(stranger.exitCode ?? stranger.signalCode, null, 'and it was left alone')
    } finally {
      stranger.kill('SIGKILL')
      await once(stranger, 'exit')
    }
  })

  await box.stop()
  assert.deepEqual(processesIn(folder), [])
})

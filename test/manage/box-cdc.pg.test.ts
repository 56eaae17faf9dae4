import assert from 'node:assert/strict'
import { existsSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { BoxProcess, freePorts, kill, processesIn, query, startArguments, temporaryFolder, until } from './box-process.ts'

test('a box with its change stream', async (t) => {
  const folder = temporaryFolder(t)
  const data = join(folder, 'box')
  const ports = await freePorts()
  const start = (...more: string[]): BoxProcess => new BoxProcess(startArguments(data, ports, ...more))
  const cdcPid = (): number | undefined => {
    const path = join(data, 'run/cdc.json')
    return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as { pid: number }).pid : undefined
  }
  const published = async (): Promise<unknown[]> =>
    (await query(await box.ready(), "SELECT schemaname || '.' || tablename AS t FROM pg_publication_tables WHERE pubname = 'beyond' ORDER BY 1", stream)).map((row) => row['t'])
  const stream = { database: 'shop' }
  let box = start('--database=shop', '--listen=127.0.0.2')

  await t.test('makes the database, the publication and the slot, and leaves the service no more than it needs', async () => {
    const file = await box.ready()
    assert.deepEqual({ ...file.quic }, { host: '127.0.0.2', port: ports.quic })
    await query(file, 'CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)', stream)
    assert.deepEqual(await published(), ['public.a', 'public.b'])
    const slot = "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'beyond_cdc' AND database = 'shop' AND active"
    await until(async () => (await query(file, slot)).length === 1)
    const [role] = await query(file, "SELECT rolsuper, rolreplication, rolcreaterole FROM pg_roles WHERE rolname = 'beyond_cdc'")
    assert.deepEqual(role, { rolsuper: false, rolreplication: true, rolcreaterole: false })
    if (process.getuid?.() === 0) assert.equal(statSync(`/proc/${cdcPid()}`).uid, statSync(join(data, 'postgres')).uid)
    assert.equal(statSync(join(data, 'cdc')).mode & 0o777, 0o700)
  })

  await t.test('the service is started again when it is killed', async () => {
    const before = cdcPid()
    kill(before)
    await until(() => cdcPid() !== undefined && cdcPid() !== before)
    const file = await box.ready()
    await until(async () => (await query(file, "SELECT 1 FROM pg_replication_slots WHERE active")).length === 1)
  })

  await t.test('kill -9 of all: the stream goes on from where it was', async () => {
    const file = await box.ready()
    await query(file, 'INSERT INTO a VALUES (1)', stream)
    for (const pid of processesIn(folder)) kill(pid)
    await box.ended
    box = start('--database=shop', '--tables=b,later.*,public.missing', '--listen=0.0.0.0')
    await box.ready()
    assert.doesNotMatch(box.stdout, /cdcProblem/)
    assert.match(box.stderr, /do not exist yet/)
    assert.match(box.stderr, /"missing":\["public.missing","later.\*"\]/)
  })

  await t.test('another list of tables changes the publication', async () => {
    assert.deepEqual(await assertTls(), ['public.b'])
  })

  await t.test('Ctrl-C leaves nothing running', async () => {
    assert.deepEqual(await box.stop(), { code: 0, signal: null })
    assert.deepEqual(processesIn(folder), [])
  })

  await t.test('a service that can not start does not keep the database from its clients', async () => {
    const log = join(data, 'cdc/log')
    renameSync(log, `${log}.aside`)
    writeFileSync(log, 'no folder')
    box = new BoxProcess(startArguments(data, ports, '--database=shop'))
    const file = await box.ready()
    assert.match(box.stdout, /"cdcProblem":"cdc ended with exit code \d/)
    assert.equal((await query(file, 'SELECT * FROM a', stream)).length, 1)
    assert.equal((await box.stop()).code, 0)
  })

  /** Off loopback PgBouncer takes nobody without TLS. */
  async function assertTls(): Promise<unknown[]> {
    const file = await box.ready()
    assert.equal(file.pooler.host, '127.0.0.1')
    await assert.rejects(published(), /SSL required/)
    const ca = readFileSync(file.tls.ca, 'utf8')
    const rows = await query(file, "SELECT schemaname || '.' || tablename AS t FROM pg_publication_tables WHERE pubname = 'beyond'", { ...stream, ssl: { ca } })
    return rows.map((row) => row['t'])
  }
})

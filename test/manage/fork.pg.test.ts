/** A fork of a box that runs and writes: everything is in it, and nothing is shared with its source. */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { BoxFile } from '../../src/manage/box-file.ts'
import { type ConnectOptions, subscribe } from '../../src/transport/client.ts'
import { Collector } from '../support/collector.ts'
import { Pgbench, preparePgbench } from '../support/pgbench.ts'
import { BoxProcess, freePorts, processesIn, query, startArguments, superuserPassword, temporaryFolder, until } from './box-process.ts'
import { boxOf, checkBalance, checkPages, fork, list, settingOf } from './fork-box.ts'

const SUMMARY = `SELECT md5(string_agg(name || ' ' || body, E'\\n' ORDER BY name)) AS sum FROM (
  SELECT 'table ' || table_schema || '.' || table_name AS name, query_to_xml(format('SELECT * FROM %I.%I t ORDER BY t::text', table_schema, table_name), true, true, '')::text AS body
    FROM information_schema.tables WHERE table_schema IN ('public', 'shop') AND table_type = 'BASE TABLE'
  UNION ALL SELECT 'index ' || indexname, indexdef FROM pg_indexes WHERE schemaname IN ('public', 'shop')
  UNION ALL SELECT 'role ' || rolname, rolcanlogin::text FROM pg_roles
  UNION ALL SELECT 'extension ' || extname, extversion FROM pg_extension
  UNION ALL SELECT 'sequence ' || schemaname || '.' || sequencename, coalesce(last_value, 0)::text FROM pg_sequences
  UNION ALL SELECT 'statistics ' || tablename || '.' || attname, n_distinct::text FROM pg_stats WHERE schemaname = 'shop') AS parts`

const connectTo = ({ quic, tls }: BoxFile): Pick<ConnectOptions, 'server' | 'tls'> => ({
  server: `${quic?.host}:${quic?.port}`,
  tls: { caFile: tls.ca, certFile: tls.cert, keyFile: tls.key },
})

test('a fork of a box that writes', async (t) => {
  const folder = temporaryFolder(t)
  const data = join(folder, 'source')
  const ports = await freePorts()
  const box = new BoxProcess(startArguments(data, ports))
  const source = await box.ready()
  const target = { ...source.pooler, user: 'postgres', password: superuserPassword(source), database: 'postgres' }
  await query(
    source,
    `CREATE ROLE ada LOGIN PASSWORD 'lovelace'; CREATE EXTENSION pg_trgm; CREATE SCHEMA shop;
     CREATE TABLE shop.things (id bigserial PRIMARY KEY, name text, made timestamptz DEFAULT now());
     CREATE INDEX ON shop.things USING gin (name gin_trgm_ops);
     INSERT INTO shop.things (name) SELECT md5(n::text) FROM generate_series(1, 2000) AS n;
     CREATE UNLOGGED TABLE shop.scratch AS SELECT 1 AS n; ANALYZE shop.things; GRANT ALL ON SCHEMA shop TO ada; GRANT ALL ON shop.things TO ada;
     CREATE SUBSCRIPTION elsewhere CONNECTION 'host=127.0.0.1 port=1 dbname=x' PUBLICATION p WITH (connect = false, slot_name = 'elsewhere')`,
  )
  await query(source, "SELECT pg_create_physical_replication_slot('standby', true); SELECT pg_create_logical_replication_slot('mine', 'pgoutput')")
  preparePgbench(target, 2)
  let one: BoxFile

  await t.test('comes up while its source is written to, as of one moment', async (t) => {
    await using bench = new Pgbench(target, 4)
    await until(() => bench.result().rates.length > 0)
    const before = await checkBalance(source)
    const made = await fork(data, 'one')
    const after = await checkBalance(source)
    t.diagnostic(`${made.method}, ${made.ms} ms`)
    assert.deepEqual((await bench.stop()).failures, [])
    await until(() => existsSync(join(made.path, 'box.json')))
    one = boxOf(made.path)
    const count = await checkBalance(one)
    assert.ok(before <= count && count <= after, `${before} <= ${count} <= ${after}`)
    await checkPages(one)
  })

  await t.test('has an identity of its own', async () => {
    const own = "SELECT slot_name AS s FROM pg_replication_slots WHERE slot_name <> 'beyond_cdc'"
    assert.deepEqual(await query(one, own), [])
    assert.deepEqual((await query(source, `${own} ORDER BY 1`)).map(({ s }) => s), ['mine', 'standby'], 'those of the source stay, and none of ours')
    for (const role of ['postgres', 'beyond_admin', 'beyond_pooler', 'beyond_cdc']) {
      assert.notEqual(readFileSync(join(one.secrets, role), 'utf8'), readFileSync(join(source.secrets, role), 'utf8'), role)
    }
    await assert.rejects(query(one, 'SELECT 1', { password: target.password }), 'the superuser of the source')
    assert.equal((await query(one, 'SELECT FROM shop.things', { user: 'ada', password: 'lovelace' })).length, 2000, 'roles of people keep their passwords')
    for (const file of ['ca.crt', 'ca.key', 'server.key']) assert.notEqual(readFileSync(join(one.tls.ca, '..', file), 'utf8'), readFileSync(join(source.tls.ca, '..', file), 'utf8'))
    assert.deepEqual(await query(one, 'SELECT subenabled AS e, subslotname AS s FROM pg_subscription'), [{ e: false, s: null }])
    assert.equal(await settingOf(one, 'synchronous_commit'), 'off')
    assert.equal(await settingOf(one, 'archive_mode'), 'off')
    assert.equal(await settingOf(one, 'cluster_name'), 'beyond-pg fork one')
    const identifier = 'SELECT system_identifier::text AS i FROM pg_control_system()'
    assert.deepEqual(await query(one, identifier), await query(source, identifier))
  })

  await t.test('and its source go different ways', async () => {
    await query(one, "INSERT INTO shop.things (name) VALUES ('of the fork'); DROP TABLE pgbench_history")
    await query(source, "INSERT INTO shop.things (name) VALUES ('of the source')")
    const names = "SELECT name AS n FROM shop.things WHERE name LIKE 'of the%'"
    assert.deepEqual(await query(one, names), [{ n: 'of the fork' }])
    assert.deepEqual(await query(source, names), [{ n: 'of the source' }])
    await checkBalance(source)
  })

  await t.test('has changes of its own: a subscriber of the source is told', async () => {
    await query(source, "INSERT INTO shop.things (name) VALUES ('streamed')")
    await using reader = new Collector(subscribe({ ...connectTo(source), from: 'beginning' }))
    await reader.until('the row has come', () => reader.rows.some(({ after }) => after?.['name'] === 'streamed') && reader.events.at(-1)?.kind === 'commit')
    const { position } = reader.events.at(-1)!
    await using told = new Collector(subscribe({ ...connectTo(one), from: position, checkpoints: reader.subscription.checkpoints }))
    assert.equal((await told.failure()).code, 'HISTORY_BROKEN')
    await using anew = new Collector(subscribe({ ...connectTo(one), from: 'beginning' }))
    await query(one, "INSERT INTO shop.things (name) VALUES ('here')")
    assert.deepEqual(await query(one, "SELECT puballtables AS p FROM pg_publication WHERE pubname = 'beyond'"), [{ p: true }])
    await anew.until('the row has come', () => anew.rows.some(({ after }) => after?.['name'] === 'here'))
    assert.ok(!anew.rows.some(({ after }) => after?.['name'] === 'streamed'))
  })

  await t.test('can be forked itself, with equal content, elsewhere', async () => {
    const at = join(folder, 'else where')
    const { path, problems } = await fork(one.secrets.replace(/\/secrets$/, ''), 'two', '--at', at, '--durable')
    assert.equal(path, at)
    assert.ok(!problems.some((problem) => problem.includes('elsewhere')), 'its subscription was disabled before')
    await until(() => existsSync(join(at, 'box.json')))
    const two = boxOf(at)
    assert.deepEqual(await query(two, SUMMARY), await query(one, SUMMARY))
    assert.equal(await settingOf(two, 'synchronous_commit'), 'on')
    assert.deepEqual(list(data).map(({ name, state }) => [name, state]), [['one', 'running'], ['two', 'running']])
  })

  await t.test('is refused where it would not be one', async () => {
    await assert.rejects(fork(data, 'one'), { code: 2, message: /^beyond-pg: There is a fork one in .* remove it with/ })
    await assert.rejects(fork(data, '../x'), { code: 2, message: /letters, digits/ })
    await assert.rejects(fork(data, 'three', '--at', folder), { code: 2, message: /exists already.*--at/ })
    await assert.rejects(fork(join(folder, 'nothing'), 'three'), { code: 5, message: /no box to fork/ })
    await assert.rejects(fork(data, 'start', 'nobody'), { code: 2, message: /no fork nobody .*: there are one, two\./ })
  })

  await t.test('stops, starts and goes, each of them twice, and the source is as it was', async () => {
    await query(one, "INSERT INTO shop.things (name) VALUES ('kept')")
    assert.equal((await fork(data, 'stop', 'one')).state, 'stopped')
    assert.equal((await fork(data, 'stop', 'one')).state, 'stopped')
    assert.equal((await fork(data, 'start', 'one')).state, 'running')
    assert.equal((await fork(data, 'start', 'one')).state, 'running')
    assert.equal((await query(one, "SELECT FROM shop.things WHERE name = 'kept'")).length, 1)
    await fork(data, 'remove', 'one')
    await fork(data, 'remove', 'two')
    await assert.rejects(fork(data, 'remove', 'two'), { code: 2, message: /no fork two/ })
    assert.deepEqual(readdirSync(folder), ['source'])
    assert.equal(processesIn(join(folder, 'forks')).length + processesIn(join(folder, 'else where')).length, 0)
    await checkPages(source)
    assert.deepEqual(await box.stop(), { code: 0, signal: null })
  })
})

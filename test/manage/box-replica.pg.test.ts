/** A replica: copied from its primary, following it through a slot of its own, read-only, and never opened by mistake. */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { readMarker } from '../../src/manage/layout.ts'
import { scramVerifier } from '../../src/manage/scram.ts'
import { runTestBox, testConfig } from './box-in-process.ts'
import { BoxProcess, freePorts, processesIn, query, startArguments, temporaryFolder, until } from './box-process.ts'

test('a replica from its copy to its refusal to be a primary', async (t) => {
  const folder = temporaryFolder(t)
  const [first, second] = [join(folder, 'first'), join(folder, 'second')]
  const [ports, morePorts] = [await freePorts(), await freePorts()]
  const roles = `standby:replication=${scramVerifier("it's one")},ann=${scramVerifier('a')}`
  const primary = await runTestBox(t, testConfig(first, ports, { BEYOND_PG_ROLES: roles, BEYOND_PG_DATABASES: 'shop=ann' }))
  const ann = { user: 'ann', password: 'a', database: 'shop' }
  await query(primary.box, 'CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept SELECT generate_series(1, 1000)', ann)

  const through = (port: number, password: string): string => `host=127.0.0.1 port=${port} user=standby password='${password.replace("'", "\\'")}' connect_timeout=5`
  const settings = { BEYOND_PG_TIER: 'replica', BEYOND_PG_PRIMARY_CONNINFO: through(ports.pooler, "it's one") }
  const config = (more = {}) => testConfig(second, morePorts, { ...settings, ...more })

  await t.test('a primary that can not be reached, or refuses, leaves nothing behind but a sentence', async () => {
    for (const [conninfo, why] of [
      [through(1, 'x'), /The primary can't be copied: .*Connection refused/],
      [through(ports.pooler, 'wrong'), /The primary can't be copied: .*(SASL|password) authentication failed/],
    ] as const) {
      await assert.rejects(runTestBox(t, config({ BEYOND_PG_PRIMARY_CONNINFO: conninfo })), why)
      assert.ok(!existsSync(join(second, 'postgres')) && !existsSync(join(second, 'postgres.unfinished')))
    }
  })

  await t.test('killed while it copies, the next boot begins anew', async () => {
    const env = { BEYOND_PG_TIER: settings.BEYOND_PG_TIER, BEYOND_PG_PRIMARY_CONNINFO: settings.BEYOND_PG_PRIMARY_CONNINFO }
    const killed = new BoxProcess(startArguments(second, morePorts), { env })
    await until(() => existsSync(join(second, 'postgres.unfinished/PG_VERSION')) || existsSync(join(second, 'postgres')))
    killed.signal('SIGKILL')
    await killed.ended
    mkdirSync(join(second, 'postgres.unfinished/more'), { recursive: true })
    writeFileSync(join(second, 'postgres.unfinished/more/half'), '')
  })

  let replica = await runTestBox(t, config())
  const count = async (): Promise<unknown> => (await query(replica.box, 'SELECT count(*)::int AS n FROM kept', ann))[0]['n']

  await t.test('it has what the primary has, and gets what is written there', async () => {
    assert.equal(await count(), 1000)
    await query(primary.box, 'INSERT INTO kept VALUES (1001)', ann)
    await until(async () => (await count()) === 1001)
    assert.ok(!existsSync(join(second, 'postgres.unfinished')))
  })

  await t.test('through a slot of its own, which is kept on the primary', async () => {
    const slot = `beyond_replica_${readMarker(replica.layout)?.id}`
    const slots = "SELECT slot_name AS s, slot_type AS t, active AS a, wal_status AS w FROM pg_replication_slots"
    assert.deepEqual(await query(primary.box, slots), [{ s: slot, t: 'physical', a: true, w: 'reserved' }])
    assert.deepEqual(await query(primary.box, 'SELECT application_name AS n FROM pg_stat_replication'), [{ n: slot }])
  })

  await t.test('it is read-only through PgBouncer', async () => {
    await assert.rejects(query(replica.box, 'INSERT INTO kept VALUES (0)', ann), /read-only transaction/)
    assert.deepEqual(await query(replica.box, 'SELECT pg_is_in_recovery() AS r', ann), [{ r: true }])
    assert.equal(replica.box.tier, 'replica')
  })

  await t.test('its password is in one file that only the account of Postgres reads', async () => {
    const files = ['config/conf.d/03-replication.conf', 'box.json', 'postgres/postgresql.auto.conf'].map((name) => readFileSync(join(second, name), 'utf8'))
    const shown = [...files, JSON.stringify(replica.events), ...processesIn(folder).map((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8'))]
    for (const text of shown) assert.ok(!text.includes("it's one") && !text.includes("it\\'s one"))
    assert.ok(readdirSync(join(second, 'secrets')).includes('primary.pgpass'))
  })

  await t.test('it starts again where it was', async () => {
    await replica.stop()
    await query(primary.box, 'INSERT INTO kept VALUES (1002)', ann)
    replica = await runTestBox(t, config())
    assert.ok(!replica.events.some((event) => /copying the primary/.test(String(event['msg']))))
    await until(async () => (await count()) === 1002)
  })

  await t.test('a setting that says primary, or says nothing, does not open it for writing', async () => {
    await replica.stop()
    for (const more of [{ BEYOND_PG_TIER: 'primary' }, { BEYOND_PG_TIER: '' }]) {
      await assert.rejects(runTestBox(t, config(more)), /postgres is a replica's and BEYOND_PG_TIER says primary/)
    }
    assert.ok(existsSync(join(second, 'postgres/standby.signal')))
  })

  await t.test('opened on purpose it is a primary whose box gets in, though it has the passwords of another', async () => {
    rmSync(join(second, 'postgres/standby.signal'))
    const promoted = await runTestBox(t, config({ BEYOND_PG_TIER: 'primary', BEYOND_PG_PRIMARY_CONNINFO: '' }))
    await query(promoted.box, 'INSERT INTO kept VALUES (0)', ann)
    assert.ok(promoted.events.some((event) => event['step'] === 'roles and databases' && /changed role beyond_admin/.test(String(event['msg']))))
    await promoted.stop()
    await assert.rejects(runTestBox(t, config()), /postgres is a primary's and BEYOND_PG_TIER says replica/)
  })

  await primary.stop()
  assert.deepEqual(processesIn(folder), [])
})

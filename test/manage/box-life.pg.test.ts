import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { Client } from 'pg'
import { beyondPg, BoxProcess, freePorts, processesIn, query, startArguments, startBox, superuserPassword, temporaryFolder } from './box-process.ts'

test('a box from its first start to its second', async (t) => {
  const folder = temporaryFolder(t)
  const data = join(folder, 'a box') // config files must stand a blank
  const ports = await freePorts()
  let { box, file } = await startBox(data, ports)
  const run = (text: string, options = {}) => query(file, text, options)

  await t.test('psql gets in with the line that is printed, over TLS', () => {
    const psql = join(process.env['BEYOND_PG_BINDIR'] ?? '', 'psql')
    const line = `host=127.0.0.1 port=${ports.pooler} user=postgres dbname=postgres sslmode=verify-full sslrootcert='${file.tls.ca}'`
    const env = { ...process.env, PGPASSFILE: join(data, 'secrets/pgpass') }
    const result = spawnSync(psql, [line, '-Atc', 'SELECT current_user'], { encoding: 'utf8', env })
    assert.equal(result.stdout, 'postgres\n', result.stderr)
  })

  await t.test('any role gets into any database, with a password only', async () => {
    await run("CREATE ROLE ada LOGIN PASSWORD 'lovelace'")
    await run('CREATE DATABASE engine OWNER ada')
    const ada = { user: 'ada', password: 'lovelace', database: 'engine' }
    await run('CREATE TABLE notes (id int PRIMARY KEY, text text)', ada)
    await run("INSERT INTO notes VALUES (1, 'G')", ada)
    assert.deepEqual(await run('SELECT current_user, current_database(), count(*)::int FROM notes', ada), [
      { current_user: 'ada', current_database: 'engine', count: 1 },
    ])
    await assert.rejects(run('SELECT 1', { ...ada, password: 'wrong' }), /SASL authentication failed/)
    await assert.rejects(run('SELECT 1', { ...ada, user: 'nobody_here' }))
    await run("ALTER ROLE ada VALID UNTIL '2000-01-01'")
    await assert.rejects(run('SELECT 1', ada), 'a role that is no longer valid')
    await run("ALTER ROLE ada VALID UNTIL 'infinity' PASSWORD 'byron'")
    assert.equal((await run('SELECT 1', { ...ada, password: 'byron' })).length, 1)
  })

  await t.test('prepared statements, search_path and the parameters of drivers work through the pool', async () => {
    const client = new Client({ ...file.pooler, user: 'postgres', password: superuserPassword(file), database: 'postgres', options: '-c search_path=pg_catalog' })
    await client.connect()
    for (let round = 0; round < 5; round++) {
      const { rows } = await client.query({ name: 'twice', text: 'SELECT $1::int * 2 AS n', values: [round] })
      assert.deepEqual(rows, [{ n: round * 2 }])
    }
    assert.deepEqual((await client.query('SHOW search_path')).rows, [{ search_path: 'pg_catalog' }])
    await client.end()
  })

  await t.test('the roles of the inside stay inside', async () => {
    for (const role of ['beyond_admin', 'beyond_cdc']) {
      const password = readFileSync(join(data, 'secrets', role), 'utf8').trim()
      await assert.rejects(run('SELECT 1', { user: role, password }), role)
    }
    await run("CREATE ROLE eve LOGIN PASSWORD 'eve'")
    await assert.rejects(run("SELECT beyond_pooler.lookup('postgres')", { user: 'eve', password: 'eve' }), /permission denied/)
    // Straight to Postgres, past the pool: neither TCP nor the socket trusts anybody.
    for (const host of ['127.0.0.1', file.postgres.socketDir]) {
      await assert.rejects(run('SELECT 1', { host, port: ports.postgres, password: 'wrong' }), /password authentication failed/)
    }
  })

  await t.test('Postgres is on loopback only, and nothing runs as root', async () => {
    const [settings] = await run("SELECT current_setting('listen_addresses') AS a, current_setting('wal_level') AS w, current_setting('data_checksums') AS c")
    assert.deepEqual(settings, { a: '127.0.0.1', w: 'logical', c: 'on' })
    const [locale] = await run("SELECT datlocprovider AS p, datlocale AS l FROM pg_database WHERE datname = 'template1'")
    assert.deepEqual(locale, { p: 'b', l: 'C.UTF-8' })
    const uids = processesIn(folder).filter((pid) => pid !== box.pid).map((pid) => statSync(`/proc/${pid}`).uid)
    assert.ok(uids.length > 5)
    if (process.getuid?.() === 0) assert.ok(!uids.includes(0))
  })

  await t.test('secrets are for their owners only, and stand in no argument and no log', () => {
    for (const name of readdirSync(join(data, 'secrets'))) assert.equal(statSync(join(data, 'secrets', name)).mode & 0o777, 0o600, name)
    for (const path of ['pooler/userlist.txt', 'tls/ca.key', 'tls/server.key', 'tls/client.key', 'box.json', 'log/beyond-pg.log']) {
      assert.equal(statSync(join(data, path)).mode & 0o777, 0o600, path)
    }
    assert.equal(statSync(data).mode & 0o007, 0, 'others may not even pass')
    const secrets = ['postgres', 'beyond_admin', 'beyond_pooler', 'beyond_cdc'].map((role) => readFileSync(join(data, 'secrets', role), 'utf8').trim())
    assert.equal(new Set(secrets).size, 4)
    const log = readFileSync(join(data, 'log/beyond-pg.log'), 'utf8')
    const shown = [log, box.stdout, box.stderr, ...processesIn(folder).map((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8'))]
    for (const text of shown) for (const secret of secrets) assert.ok(!text.includes(secret))
    assert.doesNotMatch(log, /SCRAM-SHA-256\$/, 'not even verifiers')
    assert.match(log, /database system is ready/)
  })

  await t.test('a second box on the same directory is refused', async () => {
    const second = new BoxProcess(startArguments(data, await freePorts(), '--no-cdc'))
    assert.deepEqual(await second.ended, { code: 5, signal: null })
    assert.match(second.stderr, new RegExp(`process ${box.pid}\\) runs on .*--data`))
    assert.equal((await run('SELECT 1')).length, 1)
  })

  await t.test('the demo writes its shop, twice', async () => {
    for (const seconds of ['1.5', '0.5']) {
      const demo = spawnSync(process.execPath, [beyondPg, 'demo', `--data=${data}`, '--seconds', seconds, '--rate', '200'], { encoding: 'utf8' })
      assert.equal(demo.status, 0, demo.stderr)
      assert.match(demo.stdout, /open in schema shop[\s\S]*closed after \d\d+ transactions/)
      assert.doesNotMatch(demo.stdout, /waiting/)
    }
    const [counts] = await run('SELECT (SELECT count(*) FROM shop.orders)::int AS orders, (SELECT count(*) FROM shop.customers)::int AS customers')
    assert.ok(Number(counts['orders']) > 0 && Number(counts['customers']) > 0)
  })

  await t.test('Ctrl-C ends it, cleanly and without a trace', async () => {
    const idle = new Client({ ...file.pooler, user: 'postgres', password: superuserPassword(file), database: 'postgres' })
    idle.on('error', () => undefined)
    await idle.connect()
    await idle.query('SELECT 1')
    assert.deepEqual(await box.stop(), { code: 0, signal: null })
    assert.deepEqual(processesIn(folder), [])
    assert.match(readFileSync(join(data, 'log/beyond-pg.log'), 'utf8'), /database system is shut down/)
    await idle.end().catch(() => undefined)
  })

  await t.test('the next start finds all as it was, and honours the user’s settings', async () => {
    const secret = superuserPassword(file)
    const user = join(data, 'config/conf.d/99-user.conf')
    writeFileSync(user, "# mine\nwork_mem = '7MB'\nlog_checkpoints = off\n")
    const started = performance.now()
    ;({ box, file } = await startBox(data, ports))
    t.diagnostic(`warm start: ${Math.round(performance.now() - started)} ms`)
    assert.equal(superuserPassword(file), secret)
    assert.equal(readFileSync(user, 'utf8').split('\n')[0], '# mine')
    const ada = { user: 'ada', password: 'byron', database: 'engine' }
    assert.deepEqual(await run("SELECT text, current_setting('work_mem') AS m FROM notes", ada), [{ text: 'G', m: '7MB' }])
    assert.doesNotMatch(box.stderr, /crash|not properly shut down|was interrupted|automatic recovery|made certificates/, 'it had been shut down cleanly')
    assert.equal((await box.stop()).code, 0)
  })
})

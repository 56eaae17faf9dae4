/** What a box makes of its settings: roles, databases, extensions, hooks, layers; and what it does about the wrong ones. */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { describeBoot } from '../../src/manage/box.ts'
import type { BoxConfig } from '../../src/manage/box-config.ts'
import type { BoxFile } from '../../src/manage/box-file.ts'
import { scramVerifier } from '../../src/manage/scram.ts'
import { runTestBox, type Settings, testConfig, testSettings } from './box-in-process.ts'
import { BoxProcess, freePorts, type Ports, processesIn, query, temporaryFolder } from './box-process.ts'

const { signal } = new AbortController()

async function place(t: TestContext): Promise<{ folder: string; data: string; ports: Ports; config: (settings?: Settings) => BoxConfig }> {
  const folder = temporaryFolder(t)
  const data = join(folder, 'box')
  const ports = await freePorts()
  return { folder, data, ports, config: (settings) => testConfig(data, ports, settings) }
}

function hook(folder: string, moment: string, name: string, script: string, mode = 0o755): void {
  mkdirSync(join(folder, `${moment}.d`), { recursive: true })
  writeFileSync(join(folder, `${moment}.d`, name), `#!/bin/sh\n${script}\n`, { mode })
}

test('settings become roles, databases, extensions, layers and hooks; a reload takes over what it can', async (t) => {
  const { folder, data, ports, config } = await place(t)
  const hooks = join(folder, 'hooks')
  const ran = join(folder, 'ran')
  hook(hooks, 'pre-start', '10-first', `echo "before $BEYOND_HOOK"; echo pre >>${ran}`)
  hook(hooks, 'pre-start', '20-slow', `sleep 60 & sleep 60; echo late >>${ran}`)
  hook(hooks, 'pre-start', '30-failing', 'echo oh no >&2; exit 3')
  hook(hooks, 'pre-start', '40-open', `echo open >>${ran}`, 0o644)
  hook(hooks, 'post-start', 'only', `echo "post $PGHOST" >>${ran}`)
  hook(hooks, 'pre-stop', 'only', `echo stop >>${ran}`)
  const ann = `ann=${scramVerifier('first')}`
  const settings = {
    BEYOND_PG_HOOKS: hooks,
    BEYOND_PG_HOOK_SECONDS: '1',
    BEYOND_PG_ROLES: `${ann},bob:createdb=${scramVerifier('b')}`,
    BEYOND_PG_DATABASES: 'shop=ann,spare',
    BEYOND_PG_EXTENSIONS: 'citext@shop,pg_stat_statements,no_such_thing',
    BEYOND_VOLUME_EPHEMERAL: 'true',
  }

  await t.test('a dry run says what would be done, and does nothing', async () => {
    const text = await describeBoot(config(settings), process.env, signal)
    assert.match(text, /^data directory +WILL +make .*box$/m)
    assert.match(text, /^data directory of Postgres +WILL +make .* with initdb$/m)
    assert.match(text, /^pre-start hooks +WILL +run .*10-first.*20-slow/m)
    assert.match(text, /^roles and databases +WILL .*ann, bob, shop, spare$/m)
    assert.ok(!existsSync(data) && !existsSync(ran))
  })

  let next: Settings = settings
  const box = await runTestBox(t, config(next), { readConfig: async () => config(next) })
  const log = (text: RegExp) => box.events.filter((event) => text.test(String(event['msg'])))
  const as = (user: string, password: string, database: string) => ({ user, password, database })

  await t.test('a dry run beside a running box says that the boot would be refused, and disturbs nobody', async () => {
    const beside = new BoxProcess(['boot', '--dry-run', '--settings', 'environment'], { env: testSettings(data, ports, settings) })
    assert.equal((await beside.ended).code, 0)
    assert.match(beside.stdout, new RegExp(`^lock +WILL +be refused: process ${process.pid} runs this box$`, 'm'))
    assert.match(beside.stdout, /^earlier processes +WILL +take over or end .*postgres/m)
    assert.doesNotMatch(beside.stdout, /REFUSES/)
  })

  await t.test('roles log in with the passwords of their verifiers, into their databases', async () => {
    assert.deepEqual(await query(box.box, 'SELECT current_user AS u, pg_get_userbyid(datdba) AS o FROM pg_database WHERE datname = current_database()', as('ann', 'first', 'shop')), [
      { u: 'ann', o: 'ann' },
    ])
    assert.deepEqual(await query(box.box, "SELECT rolcreatedb AS c FROM pg_roles WHERE rolname = 'bob'", as('bob', 'b', 'spare')), [{ c: true }])
  })

  await t.test('extensions are made where they are installed; the one that is not is told', async () => {
    assert.equal((await query(box.box, "SELECT 'A'::public.citext = 'a' AS same", as('ann', 'first', 'shop')))[0]['same'], true)
    assert.ok((await query(box.box, 'SELECT count(*)::int AS n FROM pg_stat_statements')).length === 1)
    assert.deepEqual(await query(box.box, "SELECT current_setting('shared_preload_libraries') AS l"), [{ l: 'pg_stat_statements' }])
    assert.ok(box.problems.some((problem) => problem.includes('no_such_thing is not installed')))
    const file = JSON.parse(readFileSync(join(data, 'box.json'), 'utf8')) as BoxFile
    assert.deepEqual(file.problems, box.problems)
  })

  await t.test('the layers say what the settings do', async () => {
    const setting = async (name: string) => (await query(box.box, `SHOW ${name}`))[0][name]
    assert.equal(await setting('synchronous_commit'), 'off')
    assert.equal(await setting('fsync'), 'on')
    assert.equal(await setting('autovacuum_naptime'), '10min')
    assert.match(String(await setting('max_slot_wal_keep_size')), /^\d+[MG]B$/)
  })

  await t.test('hooks ran in order and in time; what they said is in the log', () => {
    assert.deepEqual(readFileSync(ran, 'utf8').split('\n').slice(0, 2), ['pre', `post ${box.layout.sockets}`])
    assert.equal(log(/^before pre-start$/)[0]?.['child'], 'hook')
    assert.equal(log(/^oh no$/).length, 1)
    assert.ok(box.problems.some((problem) => /20-slow was ended .*longer than 1000 ms/.test(problem)), box.problems.join('\n'))
    assert.ok(box.problems.some((problem) => /30-failing ended with exit code 3/.test(problem)))
    assert.ok(box.problems.some((problem) => /40-open is not executable/.test(problem)))
  })

  await t.test('each step said what it did, or why nothing', () => {
    const steps = box.events.filter((event) => event['step'] !== undefined && event['msg'] !== '').map((event) => event['step'])
    for (const step of ['volume', 'lock', 'programs', 'config layers', 'postgres', 'extensions', 'box.json']) assert.ok(steps.includes(step), step)
  })

  await t.test('a reload takes over what needs no restart, and names the rest', async () => {
    const changed = { ...settings, BEYOND_PG_ROLES: `ann=${scramVerifier('second')}`, BEYOND_VOLUME_EPHEMERAL: 'false', BEYOND_PG_DATABASES: 'shop=ann,spare,more' }
    next = { ...changed, BEYOND_PG_EXTENSIONS: '', BEYOND_PG_MEMORY_MB: '300' }
    const { applied, waiting, problems } = await box.reload()
    assert.deepEqual(applied.map(({ key }) => key), ['BEYOND_VOLUME_EPHEMERAL', 'BEYOND_PG_ROLES', 'BEYOND_PG_DATABASES', 'BEYOND_PG_EXTENSIONS'])
    assert.deepEqual(waiting, [{ key: 'BEYOND_PG_MEMORY_MB', need: 'postgres' }])
    assert.ok(problems.length === 3 && problems.every((problem) => problem.includes('hook')), problems.join('\n'))
    assert.deepEqual(await query(box.box, 'SELECT 1 AS one', as('ann', 'second', 'more')), [{ one: 1 }])
    assert.deepEqual(await query(box.box, 'SHOW synchronous_commit'), [{ synchronous_commit: 'on' }])
  })

  await t.test('a mistake in the settings changes nothing', async () => {
    next = { ...settings, BEYOND_PG_ROLES: ann, BEYOND_PG_TIER: 'primry' }
    await assert.rejects(box.reload(), /BEYOND_PG_TIER must be primary, replica or sink/)
    next = { ...settings, BEYOND_PG_ROLES: ann, BEYOND_PG_WAL_SINK: 'https://a' }
    await assert.rejects(box.reload(), /exclude each other/)
    assert.deepEqual(await query(box.box, 'SELECT 1 AS one', as('ann', 'second', 'shop')), [{ one: 1 }])
  })

  await box.stop()
  assert.match(readFileSync(ran, 'utf8'), /stop\n$/)
  assert.deepEqual(processesIn(folder), [])

  await t.test('a dry run of the second start finds little to do', async () => {
    const text = await describeBoot(config(settings), process.env, signal)
    assert.match(text, /^data directory of Postgres +nothing +.*is ours and of this version$/m)
    assert.match(text, /^passwords +WILL +read them/m)
    assert.doesNotMatch(text, /initdb|REFUSES/)
  })
})

test('a mistake in 99-user.conf does not keep a box down', async (t) => {
  const { data, config } = await place(t)
  const user = join(data, 'config/conf.d/99-user.conf')
  const boot = () => runTestBox(t, config())
  let box = await boot()
  const show = async (name: string) => (await query(box.box, `SHOW ${name}`))[0][name]
  await box.stop()

  await t.test('what postgres -C refuses is left out, loudly; mended, a reload brings it back', async () => {
    writeFileSync(user, "work_mem = '7MB'\nno_such_setting = 1\n")
    box = await boot()
    assert.equal(box.problems.length, 1)
    assert.match(box.problems[0], /99-user.conf is not in force: .*no_such_setting/)
    assert.ok(box.events.some((event) => event['level'] === 50 && /YOUR SETTINGS ARE NOT IN FORCE/.test(String(event['msg']))))
    assert.notEqual(await show('work_mem'), '7MB')
    assert.equal(readFileSync(user, 'utf8').split('\n')[1], 'no_such_setting = 1', 'never touched')
    writeFileSync(user, "work_mem = '7MB'\n")
    assert.deepEqual((await box.reload()).problems, [])
    assert.equal(await show('work_mem'), '7MB')
    writeFileSync(user, "work_mem = '8MB'\n'\n")
    assert.equal((await box.reload()).problems.length, 1)
    assert.notEqual(await show('work_mem'), '8MB')
    await box.stop()
  })

  await t.test('what only a real start refuses is left out too', async () => {
    writeFileSync(user, "work_mem = '7MB'\nlisten_addresses = '203.0.113.7'\n")
    box = await boot()
    assert.match(box.problems[0], /99-user.conf is not in force: Postgres did not start with it/)
    assert.notEqual(await show('work_mem'), '7MB')
    await box.stop()
  })

  await t.test('and what is right is in force', async () => {
    writeFileSync(user, "work_mem = '9MB'\n")
    box = await boot()
    assert.deepEqual(box.problems, [])
    assert.equal(await show('work_mem'), '9MB')
    await box.stop()
  })
})

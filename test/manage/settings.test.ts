import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { BeyondError } from '../../src/errors.ts'
import { parseBoxConfig } from '../../src/manage/box-config.ts'
import { scramVerifier } from '../../src/manage/scram.ts'
import { boxSettings, changedSettings, parseSettings } from '../../src/manage/settings.ts'
import { settingsTable } from '../../src/manage/settings-table.ts'
import { fromEnvironment, parseSettingsFile, parseSettingsSource, readSettings, settingsInTree } from '../../src/manage/settings-source.ts'

const parse = (environment: Record<string, string>) => parseBoxConfig({}, fromEnvironment(environment), '/here').settings
const verifier = scramVerifier('secret')

function refusal(act: () => unknown): string {
  try {
    act()
  } catch (error) {
    assert.ok(error instanceof BeyondError && error.code === 'BAD_ARGUMENT', String(error))
    return error.message
  }
  return assert.fail('was accepted')
}

for (const [key, text, allowed] of [
  ['BEYOND_PG_TIER', 'primry', 'primary, replica or sink'],
  ['BEYOND_PG_TIER', 'Primary', 'primary, replica or sink'],
  ['BEYOND_VOLUME_EPHEMERAL', 'yes', '1, true, 0 or false'],
  ['BEYOND_PG_MEMORY_MB', '1GB', 'from 128 to'],
  ['BEYOND_PG_MEMORY_MB', '64', 'from 128 to'],
  ['BEYOND_PG_WAL_SINK', 'http://sink1', 'https://'],
  ['BEYOND_PG_WAL_SINK', 'https://a,', 'https://'],
  ['BEYOND_PG_PITR_TARGET', '2026-01-31 12:00:00', 'an LSN'],
  ['BEYOND_PG_PITR_TARGET', 'latest', 'immediate'],
  ['BEYOND_PG_PITR_TARGET', 'xid:-1', 'xid:NUMBER'],
  ['BEYOND_PG_DATABASES', 'a b', 'NAME=OWNER'],
  ['BEYOND_PG_DATABASES', 'a,a', 'NAME=OWNER'],
  ['BEYOND_PG_DATABASES', 'template1', 'NAME=OWNER'],
  ['BEYOND_PG_EXTENSIONS', 'a;b', 'NAME@DATABASE'],
  ['BEYOND_VOLUME_MOUNT', 'data', 'an absolute path'],
  ['BEYOND_CDC_KEEP_BYTES', 'much', 'a size such as 10GB'],
  ['BEYOND_CDC_LOG_LEVEL', 'loud', 'debug, info'],
]) {
  test(`${key}=${text} is an error that names key, value and what is allowed`, () => {
    const message = refusal(() => parse({ [key]: text }))
    assert.ok(message.includes(key) && message.includes(JSON.stringify(text)) && message.includes(allowed), message)
  })
}

test('what may hold a secret is named but not shown', () => {
  for (const [key, text] of [
    ['BEYOND_PG_ROLES', 'ann=hunter2'],
    ['BEYOND_PG_ROLES', 'pg_ann=hunter2'],
    ['BEYOND_PG_PRIMARY_CONNINFO', 'password=hunter2'],
    ['BEYOND_PG_PASSWORD', 'hunter2'],
  ]) {
    const message = refusal(() => parse({ [key]: text }))
    assert.ok(message.includes(key) && !message.includes('hunter2'), message)
  }
})

test('keys that nobody knows are errors, with the one that was meant', () => {
  assert.match(refusal(() => parse({ BEYOND_PG_TEIR: 'replica' })), /BEYOND_PG_TEIR \("replica"\) is no setting: did you mean BEYOND_PG_TIER\?/)
  assert.match(refusal(() => parse({ BEYOND_PURPLE_ELEPHANT: '1' })), /no setting: docs\/settings.md lists them/)
  parse({ BEYOND_TEST_SEED: '1', BEYOND_PG_CACHE: '/c', HOME: '/' })
})

test('every kind of value', () => {
  const settings = parse({
    BEYOND_PG_ROLES: `ann=${verifier}, bob:replication:createdb=${verifier}`,
    BEYOND_PG_EXTENSIONS: 'vector, pg_cron@postgres',
    BEYOND_PG_WAL_SINK: 'https://s1:9000, https://s2:9000/x',
    BEYOND_PG_PITR_TARGET: '16/B374D848',
  })
  assert.deepEqual(settings.roles, [
    { name: 'ann', attributes: [], verifier },
    { name: 'bob', attributes: ['replication', 'createdb'], verifier },
  ])
  assert.deepEqual(settings.extensions, [
    { name: 'vector', database: undefined },
    { name: 'pg_cron', database: 'postgres' },
  ])
  assert.deepEqual(settings.walSink, ['https://s1:9000', 'https://s2:9000/x'])
  assert.deepEqual(settings.pitrTarget, { kind: 'lsn', lsn: 0x16b374d848n })
  const target = (text: string) => parse({ BEYOND_PG_PITR_TARGET: text }).pitrTarget
  assert.deepEqual(target('name:before deploy'), { kind: 'name', name: 'before deploy' })
  assert.deepEqual(target('xid:742'), { kind: 'xid', xid: '742' })
  assert.deepEqual(target('immediate'), { kind: 'immediate' })
  for (const time of ['2026-01-31T12:00:00Z', '2026-01-31 12:00:00.123456+02', '2026-01-31 12:00 UTC']) assert.deepEqual(target(time), { kind: 'time', time })
})

test('what promises to keep data and a volume that may be lost exclude each other', () => {
  const ephemeral = { BEYOND_VOLUME_EPHEMERAL: '1' }
  for (const promise of [
    { BEYOND_PG_TIER: 'replica', BEYOND_PG_PRIMARY_CONNINFO: 'host=a' },
    { BEYOND_PG_TIER: 'sink' },
    { BEYOND_PG_PRIMARY_CONNINFO: 'host=a' },
    { BEYOND_PG_WAL_SINK: 'https://a' },
  ]) {
    assert.match(refusal(() => parse({ ...ephemeral, ...promise })), /BEYOND_VOLUME_EPHEMERAL and BEYOND_PG_\w+ exclude each other/)
  }
  assert.match(refusal(() => parse({ BEYOND_PG_TIER: 'replica' })), /BEYOND_PG_TIER=replica needs BEYOND_PG_PRIMARY_CONNINFO/)
  assert.equal(parse(ephemeral).ephemeral, true)
})

test('a file of lines, or of JSON', () => {
  const lines = '# mine\n\nBEYOND_PG_PORT = 6000\nBEYOND_PG_DATABASE="a b"\n BEYOND_PG_JSON=\'1\' \nBEYOND_PG_LISTEN=\n'
  assert.deepEqual(parseSettingsFile(lines, '/f'), {
    BEYOND_PG_PORT: { text: '6000', origin: 'BEYOND_PG_PORT in /f' },
    BEYOND_PG_DATABASE: { text: 'a b', origin: 'BEYOND_PG_DATABASE in /f' },
    BEYOND_PG_JSON: { text: '1', origin: 'BEYOND_PG_JSON in /f' },
  })
  const json = parseSettingsFile('{"BEYOND_PG_PORT": 6000, "BEYOND_PG_JSON": true, "BEYOND_PG_LISTEN": null, "BEYOND_PG_DATABASES": ["a", "b"]}', '/f')
  assert.deepEqual(Object.entries(json).map(([key, { text }]) => [key, text]), [['BEYOND_PG_PORT', '6000'], ['BEYOND_PG_JSON', 'true'], ['BEYOND_PG_DATABASES', 'a,b']])
  for (const [text, sentence] of [
    ['BEYOND_PG_PORT', /Line 1 of \/f is not KEY=VALUE/],
    ['BEYOND_PG_PORT=1\nBEYOND_PG_PORT=2', /stands twice in \/f/],
    ['{"BEYOND_PG_PORT": }', /\/f is not JSON/],
    ['{"BEYOND_PG_ROLES": {"a": 1}}', /BEYOND_PG_ROLES in \/f must be a text, a number/],
  ] as const) {
    assert.match(refusal(() => parseSettingsFile(text, '/f')), sentence)
  }
  assert.match(refusal(() => parseSettings(parseSettingsFile('FOO=1', '/f'))), /FOO in \/f \("1"\) is no setting/)
})

test('in the tree of the metadata service our keys stand anywhere, once', () => {
  const tree = { a: { BEYOND_PG_PORT: 1, list: [{ BEYOND_PG_JSON: false }] }, b: { BEYOND_PG_PORT: '1', name: 'x' } }
  assert.deepEqual(Object.entries(settingsInTree(tree)).map(([key, { text }]) => [key, text]), [['BEYOND_PG_PORT', '1'], ['BEYOND_PG_JSON', 'false']])
  assert.match(refusal(() => settingsInTree({ BEYOND_PG_PORT: 1, x: { BEYOND_PG_PORT: 2 } })), /BEYOND_PG_PORT has two values in the metadata service/)
})

test('sources by their names, and a file that can not be read', async (t) => {
  assert.deepEqual(parseSettingsSource('mmds', '/w'), { kind: 'metadata', address: 'http://169.254.169.254/' })
  assert.deepEqual(parseSettingsSource('environment', '/w'), { kind: 'environment' })
  assert.deepEqual(parseSettingsSource('http://127.0.0.1:80', '/w'), { kind: 'metadata', address: 'http://127.0.0.1:80/' })
  assert.deepEqual(parseSettingsSource('box.conf', '/w'), { kind: 'file', path: '/w/box.conf' })
  const folder = mkdtempSync(join(tmpdir(), 'beyond-settings-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'box.conf')
  const { signal } = new AbortController()
  await assert.rejects(readSettings({ kind: 'file', path }, {}, signal), /can't be read: ENOENT/)
  writeFileSync(path, 'BEYOND_PG_PORT=6000\nBEYOND_PG_POSTGRES_PORT=6001\n')
  const given = await readSettings({ kind: 'file', path }, { BEYOND_PG_PORT: '7000' }, signal)
  assert.deepEqual(Object.values(given).map(({ text }) => text), ['7000', '6001'])
})

test('a change says what it needs', () => {
  const before = parse({ BEYOND_PG_PITR_TARGET: '0/1' })
  const after = parse({ BEYOND_PG_PITR_TARGET: '0/1', BEYOND_PG_MEMORY_MB: '256', BEYOND_PG_TABLES: 'a', BEYOND_PG_PORT: '6000' })
  assert.deepEqual(changedSettings(before, before), [])
  assert.deepEqual(changedSettings(before, after), [
    { key: 'BEYOND_PG_MEMORY_MB', need: 'postgres' },
    { key: 'BEYOND_PG_PORT', need: 'box' },
    { key: 'BEYOND_PG_TABLES', need: 'live' },
  ])
})

test('docs/settings.md is the table that the program has', () => {
  const page = readFileSync(new URL('../../docs/settings.md', import.meta.url), 'utf8')
  assert.ok(page.includes(settingsTable()), `the table should read:\n${settingsTable()}`)
})

test('every key once, every flag once', () => {
  const definitions = Object.values(boxSettings)
  assert.equal(new Set(definitions.map(({ env }) => env)).size, definitions.length)
})

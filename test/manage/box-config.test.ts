import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BeyondError } from '../../src/errors.ts'
import { isLoopback, localAddress, parseLocalConfig, type RawFlags } from '../../src/manage/box-config.ts'

const parse = (flags: RawFlags, environment: Record<string, string> = {}) => parseLocalConfig(flags, environment, '/here')

test('defaults are those of the manual', () => {
  const { settings, ...config } = parse({})
  assert.equal(settings.tier, 'primary')
  assert.deepEqual(config, {
    dataDir: '/here/.beyond',
    dataDirIsDefault: true,
    listen: '127.0.0.1',
    poolerPort: 5432,
    postgresPort: 5433,
    cdc: { database: 'postgres', tables: 'all', quicPort: 9443, environment: {} },
    json: false,
    postgresBinDir: undefined,
    pgbouncer: undefined,
    profile: 'development',
  })
})

test('a flag wins over its variable, a variable over the default', () => {
  const config = parse({ port: '6000' }, { BEYOND_PG_PORT: '7000', BEYOND_PG_POSTGRES_PORT: '7001', BEYOND_PG_DATA: 'there', BEYOND_PG_JSON: '1' })
  assert.equal(config.poolerPort, 6000)
  assert.equal(config.postgresPort, 7001)
  assert.equal(config.dataDir, '/here/there')
  assert.equal(config.dataDirIsDefault, false)
  assert.equal(config.json, true)
})

test('an empty variable is none', () => {
  assert.equal(parse({}, { BEYOND_PG_PORT: '' }).poolerPort, 5432)
})

test('the change stream can be switched off either way', () => {
  assert.equal(parse({ cdc: false }).cdc, undefined)
  assert.equal(parse({ cdc: true }, { BEYOND_PG_NO_CDC: '1' }).cdc, undefined)
  assert.notEqual(parse({ cdc: true }, { BEYOND_PG_NO_CDC: '0' }).cdc, undefined)
})

for (const [what, flags, environment, named] of [
  ['a port that is no number', { port: 'x' }, {}, '--port'],
  ['port 0', { port: '0' }, {}, '--port'],
  ['a port beyond 65535', { quicPort: '65536' }, {}, '--quic-port'],
  ['a port in the environment', {}, { BEYOND_PG_PORT: '-1' }, 'BEYOND_PG_PORT'],
  ['one port for both', { port: '5433' }, {}, '5433'],
  ['a name to listen on', { listen: 'example.com' }, {}, '--listen'],
  ['an empty data directory', { data: '' }, {}, '--data'],
  ['a line break in a path', { data: 'a\nb' }, {}, '--data'],
  ['a bad list of tables', { tables: 'a..b' }, {}, '--tables'],
  ['a template as database', { database: 'template1' }, {}, '--database'],
  ['a database name that is too long', { database: 'x'.repeat(64) }, {}, '--database'],
  ['a strange switch', {}, { BEYOND_PG_NO_CDC: 'maybe' }, 'BEYOND_PG_NO_CDC'],
] as [string, RawFlags, Record<string, string>, string][]) {
  test(`refuses ${what}, in a sentence that names it`, () => {
    assert.throws(
      () => parse(flags, environment),
      (error) => error instanceof BeyondError && error.code === 'BAD_ARGUMENT' && error.message.includes(named) && error.exitCode === 2,
    )
  })
}

test('knows loopback', () => {
  assert.deepEqual(['127.0.0.1', '127.9.9.9', '::1'].map(isLoopback), [true, true, true])
  assert.deepEqual(['0.0.0.0', '10.0.0.1', '::', 'fe80::1'].map(isLoopback), [false, false, false, false])
  assert.deepEqual(['0.0.0.0', '::', '10.0.0.1'].map(localAddress), ['127.0.0.1', '::1', '10.0.0.1'])
})

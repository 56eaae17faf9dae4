import assert from 'node:assert/strict'
import { test } from 'node:test'
import { maxClients, poolerConfig, userList } from '../../src/manage/pgbouncer-config.ts'
import { hbaConfig, imageSettings, renderSettings } from '../../src/manage/postgres-config.ts'

test('every value of a layer is quoted, quotes and backslashes within it doubled', () => {
  const text = renderSettings('Title.', { a: 1, b: true, c: "it's \\ here" })
  assert.deepEqual(
    text.split('\n').filter((line) => !line.startsWith('#') && line !== ''),
    ["a = '1'", "b = 'on'", "c = 'it''s \\\\ here'"],
  )
})

test('no line of pg_hba.conf trusts, and none is open to the network', () => {
  const rows = hbaConfig().split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  assert.ok(rows.length > 0)
  for (const row of rows) {
    assert.match(row, /scram-sha-256$/)
    if (!row.startsWith('local')) assert.match(row, /127\.0\.0\.1\/32/)
  }
})

test('Postgres itself listens on loopback only and can decode', () => {
  const settings = imageSettings({ port: 5433, socketDirectory: '/s', hbaFile: '/h', identFile: '/i' })
  assert.equal(settings['listen_addresses'], '127.0.0.1')
  assert.equal(settings['wal_level'], 'logical')
  assert.equal(settings['log_statement'], 'none')
})

const pooler = {
  listen: '127.0.0.1',
  port: 5432,
  postgresPort: 5433,
  socketDirectory: '/s',
  authFile: '/a',
  certificate: '/c',
  key: '/k',
  maxConnections: 100,
  openFiles: 20_000,
}
const setting = (text: string, name: string): string | undefined => new RegExp(`^${name} = (.*)$`, 'm').exec(text)?.[1]

test('PgBouncer requires TLS as soon as it listens off loopback', () => {
  assert.equal(setting(poolerConfig(pooler), 'client_tls_sslmode'), 'allow')
  assert.equal(setting(poolerConfig({ ...pooler, listen: '0.0.0.0' }), 'client_tls_sslmode'), 'require')
  assert.equal(setting(poolerConfig({ ...pooler, listen: '::' }), 'client_tls_sslmode'), 'require')
})

test('PgBouncer serves any role and database, and comes back at once after a restart of Postgres', () => {
  const text = poolerConfig(pooler)
  assert.match(text, /^\* = host=\/s port=5433$/m)
  assert.match(text, /^replication = host=\/s port=5433 dbname=postgres$/m)
  assert.equal(setting(text, 'auth_dbname'), 'postgres')
  assert.equal(setting(text, 'pool_mode'), 'transaction')
  assert.equal(setting(text, 'server_login_retry'), '1')
  assert.equal(setting(text, 'max_db_connections'), '80')
  assert.doesNotMatch(text, /password/i)
  assert.equal(userList('pw'), '"beyond_pooler" "pw"\n')
})

test('clients are bounded by the open files that there are', () => {
  assert.equal(maxClients({ openFiles: 1_048_576, maxConnections: 100 }), 1000)
  assert.equal(maxClients({ openFiles: 1024, maxConnections: 100 }), 824)
  assert.equal(maxClients({ openFiles: 64, maxConnections: 100 }), 50)
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { maxClients, poolerConfig, userList } from '../../src/manage/pgbouncer-config.ts'
import {
  durabilitySettings,
  hbaConfig,
  identConfig,
  imageSettings,
  OWN_LAYERS,
  ownLayersConfig,
  renderSettings,
  replicationSettings,
} from '../../src/manage/postgres-config.ts'

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

test('the box comes in as what the kernel says it is, and nobody else does', () => {
  const peers = [
    { system: 'root', role: 'beyond_admin' },
    { system: 'nobody', role: 'beyond_pooler' },
  ]
  const rows = hbaConfig(peers).split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  assert.deepEqual(rows.slice(0, 2), ['local\tall\tbeyond_admin\t\tpeer map=box', 'local\tall\tbeyond_pooler\t\tpeer map=box'])
  assert.ok(rows.slice(2).every((row) => row.endsWith('scram-sha-256')))
  assert.match(identConfig(peers), /^box\troot\tbeyond_admin\nbox\tnobody\tbeyond_pooler$/m)
})

test('an ephemeral volume waits for nothing and stays whole', () => {
  assert.deepEqual(durabilitySettings({ ephemeral: true }), { fsync: true, full_page_writes: true, synchronous_commit: 'off' })
  assert.equal(durabilitySettings({ ephemeral: false })['synchronous_commit'], 'on')
})

const GB = 1024 ** 3

test('slots keep at most a third of the volume', () => {
  const keep = (volumeBytes: number): unknown => replicationSettings({ volumeBytes, replica: undefined })['max_slot_wal_keep_size']
  assert.equal(keep(30 * GB), '10240MB')
  assert.equal(keep(GB), '512MB')
})

test('a replica follows through its own slot, with no less than its primary has', () => {
  const settings = replicationSettings({ volumeBytes: GB, replica: { conninfo: "host='a'", slot: 's', primaryLimits: { max_wal_senders: 40 } } })
  assert.equal(settings['primary_conninfo'], "host='a'")
  assert.equal(settings['primary_slot_name'], 's')
  assert.equal(settings['max_wal_senders'], 40)
})

test('without the user’s layer all others are still read', () => {
  for (const name of OWN_LAYERS) assert.match(ownLayersConfig(), new RegExp(`^include_if_exists 'conf\\.d/${name}'$`, 'm'))
  assert.doesNotMatch(ownLayersConfig(), /^include.*99-user/m)
})

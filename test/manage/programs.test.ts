import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import { linksLz4, parseVersion } from '../../src/manage/programs.ts'

test('versions', () => {
  assert.deepEqual(parseVersion('postgres (PostgreSQL) 18.6 (Debian 18.6-3)'), [18, 6])
  assert.deepEqual(parseVersion('psql (PostgreSQL) 18beta1'), [18, 0])
  assert.deepEqual(parseVersion('PgBouncer 1.26.1\nlibevent 2.1.13-stable'), [1, 26])
  assert.deepEqual(parseVersion('nonsense'), [])
})

test('which programs have LZ4', () => {
  assert.equal(linksLz4(process.execPath), false)
  const postgres = join(process.env['BEYOND_PG_BINDIR'] ?? '', 'postgres')
  const asked = spawnSync(postgres, ['-C', 'wal_compression', '-D', '/', '-c', 'config_file=/dev/null', '-c', 'wal_compression=lz4'])
  assert.equal(linksLz4(postgres), asked.status === 0)
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseVersion } from '../../src/manage/programs.ts'

test('versions', () => {
  assert.deepEqual(parseVersion('postgres (PostgreSQL) 18.6 (Debian 18.6-3)'), [18, 6])
  assert.deepEqual(parseVersion('psql (PostgreSQL) 18beta1'), [18, 0])
  assert.deepEqual(parseVersion('PgBouncer 1.26.1\nlibevent 2.1.13-stable'), [1, 26])
  assert.deepEqual(parseVersion('nonsense'), [])
})

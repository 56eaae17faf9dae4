import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseStandbyNames, protectionOf, type Standby } from '../../src/manage/protection.ts'

const standby = (name: string, sync: string, flushed: string | null): Standby => ({ name, state: 'streaming', sync, flushed, lagBytes: 0, lagMs: null })
const safe = { fsync: true, synchronousCommit: 'on' }

test('synchronous_standby_names in all its forms', () => {
  const cases: [string, ReturnType<typeof parseStandbyNames>][] = [
    ['', undefined],
    ['  ', undefined],
    ['s1', { method: 'first', count: 1 }],
    ['s1, s2', { method: 'first', count: 1 }],
    ['*', { method: 'first', count: 1 }],
    ['2 (s1, s2, s3)', { method: 'first', count: 2 }],
    ['FIRST 2 (s1, s2)', { method: 'first', count: 2 }],
    ['first 1(s1)', { method: 'first', count: 1 }],
    ['ANY 2 (s1, s2, s3)', { method: 'any', count: 2 }],
    [' any  2( "*" )', { method: 'any', count: 2 }],
    ['"any", s2', { method: 'first', count: 1 }],
  ]
  for (const [text, expected] of cases) assert.deepEqual(parseStandbyNames(text), expected, text)
})

test('what a commit survives', () => {
  assert.deepEqual(protectionOf({ ...safe, standbyNames: '', standbys: [standby('r1', 'async', '0/9')] }), { kind: 'disk' })
  assert.equal(protectionOf({ fsync: false, synchronousCommit: 'on', standbyNames: 's1', standbys: [] }).kind, 'none')
  assert.equal(protectionOf({ fsync: true, synchronousCommit: 'off', standbyNames: 's1', standbys: [] }).kind, 'none')
  assert.deepEqual(protectionOf({ fsync: true, synchronousCommit: 'local', standbyNames: 's1', standbys: [] }), { kind: 'disk' })
})

test('of any two out of three, the second furthest counts', () => {
  const standbys = [standby('s1', 'quorum', '0/30'), standby('s2', 'quorum', '1/10'), standby('s3', 'quorum', '0/FF'), standby('r', 'async', '2/0')]
  const upTo = (standbyNames: string, some = standbys) => protectionOf({ ...safe, standbyNames, standbys: some })
  assert.deepEqual(upTo('ANY 2 (s1, s2, s3)'), { kind: 'standbys', needed: 2, present: 3, upTo: '0/FF', names: ['s1', 's2', 's3'] })
  assert.deepEqual(upTo('ANY 2 (s1, s2, s3)', standbys.slice(0, 1)), { kind: 'standbys', needed: 2, present: 1, upTo: null, names: ['s1'] })
})

test('of the first two, the slower counts; who only stands by does not', () => {
  const standbys = [standby('s1', 'sync', '0/30'), standby('s2', 'sync', '0/20'), standby('s3', 'potential', '0/99')]
  assert.deepEqual(protectionOf({ ...safe, standbyNames: 'FIRST 2 (s1, s2, s3)', standbys }), { kind: 'standbys', needed: 2, present: 2, upTo: '0/20', names: ['s1', 's2'] })
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseRoles, peerOf, ownsPin } from '../../src/sink/http-role.ts'
import { bytesWanted, takesZstd } from '../../src/sink/http-range.ts'

test('ranges', () => {
  const whole = { status: 200, start: 0, end: 1000 } as const
  const cases: [string, unknown][] = [
    ['bytes=0-0', { status: 206, start: 0, end: 1 }],
    ['bytes=10-', { status: 206, start: 10, end: 1000 }],
    ['bytes=-10', { status: 206, start: 990, end: 1000 }],
    ['bytes=-5000', { status: 206, start: 0, end: 1000 }],
    ['bytes=990-5000', { status: 206, start: 990, end: 1000 }],
    ['bytes=1000-', { status: 416 }],
    ['bytes=-0', { status: 416 }],
    // Not ranges, or more than one: the whole, as the RFC allows.
    ...(['bytes=5-4', 'bytes=-', 'bytes=a-b', 'lines=1-2', 'bytes=0-1,5-6', 'bytes=99999999999999999999-', ''].map((range) => [range, whole]) as [string, unknown][]),
  ]
  for (const [range, expected] of cases) assert.deepEqual(bytesWanted({ range }, 1000, '"e"'), expected, range)
  assert.deepEqual(bytesWanted({ range: 'bytes=-1' }, 0, '"e"'), { status: 416 })
  assert.deepEqual(bytesWanted({ range: 'bytes=0-0', ifNoneMatch: '"x", W/"e"' }, 1000, '"e"'), { status: 304 })
  assert.deepEqual(bytesWanted({ ifNoneMatch: '*' }, 1000, '"e"'), { status: 304 })
  assert.deepEqual(bytesWanted({ ifNoneMatch: 'e' }, 1000, '"e"'), whole)
})

test('encodings', () => {
  for (const yes of ['zstd', 'gzip, zstd', 'ZSTD;q=0.5', 'br;q=0, zstd ; q=1']) assert.equal(takesZstd(yes), true, yes)
  for (const no of [undefined, '', 'gzip', 'zstd;q=0', 'zstd; q=0.00', 'xzstd', '*']) assert.equal(takesZstd(no), false, String(no))
})

test('roles by certificate: reading is all that an unknown one may', () => {
  const print = 'AB:'.repeat(31) + 'AB'
  const map = parseRoles(['box1=seal', 'ops=admin', `sha256:${print}=admin`, 'a=b=seal'])
  assert.equal(peerOf({ subject: { CN: 'box1' } }, map).role, 'seal')
  assert.equal(peerOf({ subject: { CN: 'box2' } }, map).role, 'read')
  assert.equal(peerOf({ subject: { CN: 'a=b' } }, map).role, 'seal')
  assert.equal(peerOf({ subject: { CN: ['ops', 'box1'] } }, map).role, 'read')
  assert.equal(peerOf({}, map).role, 'read')
  assert.equal(peerOf({ subject: { CN: 'box2' }, fingerprint256: print }, map).role, 'admin')
  assert.ok(ownsPin({ name: 'box1', role: 'seal' }, 'box1.boot') && !ownsPin({ name: 'box1', role: 'seal' }, 'box10') && !ownsPin({ name: undefined, role: 'seal' }, 'x'))
  for (const wrong of ['box1', '=seal', 'box1=root', 'box1=']) assert.throws(() => parseRoles([wrong]), { code: 'BAD_ARGUMENT' }, wrong)
})

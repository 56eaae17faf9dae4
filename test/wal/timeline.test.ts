/** Timelines, their history files, and the names of segments. */
import assert from 'node:assert/strict'
import { it } from 'node:test'
import fc from 'fast-check'
import { parseLsn, toLsn, type Lsn } from '../../src/wal/lsn.ts'
import { isSegmentSize, parseSegmentFileName, segmentEndingAt, segmentFileName, segmentOf, segmentStart } from '../../src/wal/segment-name.ts'
import { formatTimeline, historyFileName, leftAt, parseHistory, parseHistoryFileName, timelineAt, toTimeline, type Timeline } from '../../src/wal/timeline.ts'

const MB = 1024 * 1024
const tl = (value: number): Timeline => toTimeline(value)!
const lsn = (text: string): Lsn => parseLsn(text)!

it('reads a history as Postgres writes it', () => {
  const text = '1\t0/3000098\tno recovery target specified\n\n# a comment\n2\t0/5000000\tbefore 2026-11-22 11:00:00+00\n'
  const history = parseHistory(text, tl(3))
  assert.deepEqual(history, [
    { timeline: 1, switchedAt: lsn('0/3000098'), reason: 'no recovery target specified' },
    { timeline: 2, switchedAt: lsn('0/5000000'), reason: 'before 2026-11-22 11:00:00+00' },
  ])
  assert.equal(leftAt(history ?? [], tl(3), tl(1)), lsn('0/3000098'))
  assert.equal(leftAt(history ?? [], tl(3), tl(3)), 'never')
  assert.equal(leftAt(history ?? [], tl(3), tl(4)), undefined)
  assert.equal(timelineAt(history ?? [], tl(3), lsn('0/3000097')), 1)
  assert.equal(timelineAt(history ?? [], tl(3), lsn('0/3000098')), 2)
  assert.equal(timelineAt(history ?? [], tl(3), lsn('9/0')), 3)
})

for (const [why, text, timeline] of [
  ['a line without a switch point', '1\tabc\n', 2],
  ['timelines that fall', '2\t0/1\tx\n1\t0/2\tx\n', 3],
  ['switch points that fall', '1\t0/2\tx\n2\t0/1\tx\n', 3],
  ['itself as its ancestor', '2\t0/1\tx\n', 2],
  ['timeline zero', '0\t0/1\tx\n', 2],
  ['text', 'hello', 2],
] as const)
  it(`is no history: ${why}`, () => assert.equal(parseHistory(text, tl(timeline)), undefined))

it('names timelines and histories', () => {
  assert.equal(formatTimeline(tl(10)), '0000000A')
  assert.equal(historyFileName(tl(0xffffffff)), 'FFFFFFFF.history')
  assert.equal(parseHistoryFileName('0000000A.history'), 10)
  for (const name of ['0000000a.history', '00000000.history', '0000000A.history.new', '../0000000A.history', 'A.history']) assert.equal(parseHistoryFileName(name), undefined)
  for (const value of [0, -1, 1.5, 2 ** 32]) assert.equal(toTimeline(value), undefined)
})

it('names segments', () => {
  const rows: [string, number, number, bigint][] = [
    ['000000010000000000000001', 16 * MB, 1, 1n],
    ['0000000A00000001000000FF', 16 * MB, 10, 511n],
    ['000000010000000100000FFF', MB, 1, 8191n],
    ['000000010000000200000003', 1024 * MB, 1, 11n],
  ]
  for (const [name, bytes, timeline, number] of rows) {
    assert.deepEqual(parseSegmentFileName(name, bytes), { timeline, number })
    assert.equal(segmentFileName({ timeline: tl(timeline), number }, bytes), name)
  }
  // The last part never exceeds what four gigabytes hold.
  for (const name of ['000000010000000000000100', '000000000000000000000001', '00000001000000000000001', '00000001000000000000000g', '000000010000000000000001.partial'])
    assert.equal(parseSegmentFileName(name, 16 * MB), undefined)
  assert.deepEqual([MB, 16 * MB, 1024 * MB, MB / 2, 3 * MB, 2048 * MB].map(isSegmentSize), [true, true, true, false, false, false])
})

it('counts segments and positions alike', () => {
  fc.assert(
    fc.property(fc.bigInt(0n, 2n ** 63n), fc.constantFrom(1, 16, 64, 1024), fc.integer({ min: 1, max: 0xffffffff }), (position, size, timeline) => {
      const bytes = size * MB
      const number = segmentOf(toLsn(position), bytes)
      assert.ok(segmentStart(number, bytes) <= position && position < segmentStart(number + 1n, bytes))
      assert.deepEqual(parseSegmentFileName(segmentFileName({ timeline: tl(timeline), number }, bytes), bytes), { timeline, number })
      if (position > 0n) assert.equal(segmentEndingAt(toLsn(position), bytes), segmentOf(toLsn(position - 1n), bytes))
    }),
  )
})

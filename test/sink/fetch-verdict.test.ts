import assert from 'node:assert/strict'
import { test } from 'node:test'
import { judge, provesEnd, type FinalEnd, type SinkAnswer } from '../../src/sink/fetch-verdict.ts'
import { toLsn } from '../../src/wal/lsn.ts'
import type { Timeline } from '../../src/wal/timeline.ts'

const MB16 = 16 * 1024 * 1024
const end = (timeline: number, lsn: bigint): FinalEnd => ({ generation: 5n, systemId: 1n, timeline: timeline as Timeline, lsn: toLsn(lsn), segmentBytes: MB16 })
const absent = (timeline: number, lsn: bigint): SinkAnswer => ({ kind: 'absent', end: end(timeline, lsn) })
const sealed = (path: string, lsn: bigint): SinkAnswer => ({ kind: 'sealed', path, end: toLsn(lsn) })
const closed: SinkAnswer = { kind: 'closed', path: 'closed' }
const unknown: SinkAnswer = { kind: 'unknown', reason: 'down' }
const history = (path: string, sha256: string): SinkAnswer => ({ kind: 'history', path, sha256 })

// Segment 5 of timeline 2: 0/5000000 up to 0/6000000.
const SEGMENT = '000000020000000000000005'

test('what a sealed sink proves by not having a file', () => {
  const cases: [string, FinalEnd, boolean][] = [
    [SEGMENT, end(2, 0x5000000n), true],
    [SEGMENT, end(2, 0x4123456n), true],
    // WAL goes on into the segment: it should be there.
    [SEGMENT, end(2, 0x5000001n), false],
    [SEGMENT, end(2, 0x9000000n), false],
    // A timeline that the sink has never heard of, and one that it has left behind.
    [SEGMENT, end(1, 0x9000000n), true],
    [SEGMENT, end(3, 0x9000000n), false],
    [SEGMENT, end(3, 0x5000000n), true],
    ['00000003.history', end(2, 0x5000000n), true],
    ['00000002.history', end(2, 0x5000000n), false],
    ['00000002.history', end(3, 0x5000000n), false],
    ['nonsense', end(2, 0x5000000n), false],
    // Not a segment of this size.
    ['000000020000000000000100', end(2, 0n), false],
  ]
  for (const [name, position, expected] of cases) assert.equal(provesEnd(name, position), expected, `${name} at ${position.timeline} ${position.lsn.toString(16)}`)
})

test('what the answers of several sinks mean together', () => {
  const again = 'again'
  const cases: [string, SinkAnswer[], number, string][] = [
    ['a whole segment from any', [unknown, closed], 3, 'closed'],
    ['one that is whole beats one that is cut off', [sealed('a', 0x5000100n), closed], 1, 'closed'],
    ['nobody answers', [unknown, unknown], 1, again],
    ['all prove the end', [absent(2, 0x5000000n), absent(2, 0x4000100n)], 2, 'end'],
    ['one proves it, the other is down: it may hold more', [absent(2, 0x5000000n), unknown], 2, again],
    ['one proves it, and one is enough', [absent(2, 0x5000000n), unknown], 1, 'end'],
    ['one proves it, the other misses what it should have', [absent(2, 0x5000000n), absent(2, 0x5800000n)], 2, again],
    ['the furthest of the last ones', [sealed('a', 0x5000100n), sealed('b', 0x5000200n), sealed('c', 0x5000180n)], 3, 'b'],
    ['a last one is not believed while another may hold more', [sealed('a', 0x5000100n), unknown], 2, again],
    ['a last one, and a proof that the other has less', [sealed('a', 0x5000100n), absent(2, 0x4ffff00n)], 2, 'a'],
    ['fetched ahead: nothing but closed ones', [sealed('a', 0x5000100n), sealed('b', 0x5000100n)], Infinity, again],
    ['no sinks at all', [], 1, again],
  ]
  for (const [what, answers, needed, expected] of cases) {
    const verdict = judge(SEGMENT, answers, needed)
    assert.equal(verdict.kind === 'take' ? verdict.path : verdict.kind, expected, what)
  }
})

test('of two histories under one name, the one that most sinks know', () => {
  const name = '00000003.history'
  assert.deepEqual(judge(name, [history('a', 'x'), absent(2, 0x5000000n)], 2), { kind: 'take', path: 'a' })
  assert.deepEqual(judge(name, [history('a', 'x'), history('b', 'y'), history('c', 'y')], 3), { kind: 'take', path: 'b' })
  assert.equal(judge(name, [history('a', 'x'), history('b', 'y')], 2).kind, 'again')
})

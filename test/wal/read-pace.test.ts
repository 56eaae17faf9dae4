import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ReadPace } from '../../src/wal/read-pace.ts'

/** How many of `count` reads of `bytes`, one each `everyMs`, are followed by a pause. */
function pauses(bytes: number, everyMs: number, count: number, pace = new ReadPace()): number {
  let paused = 0
  for (let read = 0; read < count; read++) if (pace.gatherAfter(bytes, 1_000 + read * everyMs)) paused++
  return paused
}

test('a thousand small transactions a second are never delayed', () => {
  assert.equal(pauses(400, 1, 10_000), 0)
})

test('a walsender at full speed is, from its first milliseconds on', () => {
  assert.ok(pauses(300, 0.02, 1_000) > 950)
})

test('after a large read the next one follows at once', () => {
  assert.equal(pauses(20_000, 1, 1_000), 0)
})

test('a lone large transaction delays nothing that follows a little later', () => {
  const pace = new ReadPace()
  pace.gatherAfter(1_000_000, 0)
  assert.equal(pace.gatherAfter(400, 20), false)
})

test('when the load ends, pauses end within milliseconds', () => {
  const pace = new ReadPace()
  pauses(2_000, 0.1, 1_000, pace)
  assert.equal(pace.gatherAfter(400, 1_100 + 15), false)
})

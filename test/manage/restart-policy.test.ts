import assert from 'node:assert/strict'
import { test } from 'node:test'
import { afterExit, noRestarts } from '../../src/manage/restart-policy.ts'

test('doubles, has a ceiling, forgets after a good minute', () => {
  let history = noRestarts
  const delays = Array.from({ length: 12 }, () => {
    const decision = afterExit(history, 10, false)
    history = decision.history
    return decision.delayMs
  })
  assert.deepEqual(delays, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000])
  assert.deepEqual(afterExit(history, 60_000, false), { history: { attempt: 1 }, delayMs: 100 })
  assert.equal(afterExit(noRestarts, 10, true).delayMs, 30_000)
})

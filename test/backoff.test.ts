import assert from 'node:assert/strict'
import { it } from 'node:test'
import { backoffMs } from '../src/backoff.ts'

const limits = { minMs: 100, maxMs: 5_000 }

it('doubles from attempt to attempt up to the limit', () => {
  const longest = [1, 2, 3, 4, 5, 6, 7, 8].map((attempt) => backoffMs(attempt, 1, limits))
  assert.deepEqual(longest, [100, 200, 400, 800, 1600, 3200, 5000, 5000])
})

it('takes at least half of the time, however the dice fall', () => {
  for (const attempt of [1, 5, 100, 1e9]) {
    const least = backoffMs(attempt, 0, limits)
    const most = backoffMs(attempt, 0.999_999, limits)
    assert.ok(least > 0 && least * 2 >= most && most <= limits.maxMs, `attempt ${attempt}: ${least} to ${most}`)
  }
})

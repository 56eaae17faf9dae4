import assert from 'node:assert/strict'
import { test } from 'node:test'
import { retuneUnderLoad } from '../faults/retune.ts'

test('pgbench with 10 clients notices nothing of two retunes but a wait', async (t) => {
  const { stallsMs, longestMs, transactions } = await retuneUnderLoad({ rounds: 2, rate: 200, flags: ['--no-cdc'] })
  assert.equal(stallsMs.length, 2)
  t.diagnostic(`${transactions} transactions, stalls ${stallsMs.join(' and ')} ms, longest transaction ${longestMs} ms`)
})

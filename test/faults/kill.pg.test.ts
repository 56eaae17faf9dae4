import assert from 'node:assert/strict'
import { it } from 'node:test'
import { testSeed } from '../support/random.ts'
import { killLoop } from './kill-loop.ts'

const ROUNDS = 20

it(`gives a subscriber every committed change once, in order, through ${ROUNDS} kills of any process (seed ${testSeed})`, { timeout: 170_000 }, async (t) => {
  const result = await killLoop({ rounds: ROUNDS, seed: testSeed, onRound: (round, fault, moment) => t.diagnostic(`round ${round}: ${fault} after ${moment} ms`) })
  t.diagnostic(JSON.stringify(result))
  assert.ok(result.transactions > 100, `only ${result.transactions} transactions`)
})

import { test } from 'node:test'
import { boxRounds } from '../faults/box.ts'
import { testSeed } from '../support/random.ts'

test('a box serves again whatever is killed, and keeps what it has acknowledged', async (t) => {
  t.diagnostic(`seed ${testSeed}`)
  const { acknowledged, faults } = await boxRounds({ rounds: 4, seed: testSeed, onRound: (round, fault, ms) => t.diagnostic(`${round}: ${fault}, ${Math.round(ms)} ms`) })
  t.diagnostic(`${acknowledged} acknowledged ${JSON.stringify(faults)}`)
})

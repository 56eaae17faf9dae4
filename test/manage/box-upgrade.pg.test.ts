import { test } from 'node:test'
import { supervisorRounds } from '../faults/supervisor.ts'
import { testSeed } from '../support/random.ts'

test('pgbench with 20 clients notices nothing of a supervisor that is killed and upgraded', async (t) => {
  t.diagnostic(`seed ${testSeed}`)
  const result = await supervisorRounds({ rounds: 5, seed: testSeed, rate: 50, flags: ['--no-cdc'] })
  t.diagnostic(`${result.kills} kills, ${result.upgrades} upgrades, supervisor ${Math.round(result.rssMb)} MB`)
})

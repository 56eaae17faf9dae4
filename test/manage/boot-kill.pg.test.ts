/** A sample of what `node test/faults/boot-kills.ts` does in full. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Death, deathsThenResult, randomOf, stepDeaths, Volume } from '../faults/boot-kills.ts'
import { freePorts } from './box-process.ts'

test('a boot that is killed at steps and between calls, again and again, ends where an undisturbed one does', async (t) => {
  const seed = Number(process.env['BEYOND_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31))
  t.diagnostic(`BEYOND_TEST_SEED=${seed}`)
  const random = randomOf(seed)
  await using reference = new Volume(await freePorts())
  const { calls, ready } = await reference.boot({})
  assert.ok(ready)
  const expected = await reference.result()
  await reference.quiet()
  const some = stepDeaths.filter(() => random() < 6 / stepDeaths.length)
  const deaths: Death[] = [...some, ...[0.2, 0.5, 0.8].map((about) => ({ call: Math.floor(calls * (about + random() * 0.2)) }))]
  const actual = await deathsThenResult(deaths, async (volume) => {
    if (random() < 0.3) await volume.quiet()
  })
  assert.equal(actual, expected, JSON.stringify(deaths))
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { afterFailure, differences, isSameMachine, observe, quiet, reloadableOnly, type Watch } from '../../src/manage/retune-plan.ts'
import { planTuning, settingsOf, type TuningInput } from '../../src/manage/tuning.ts'

const GB = 2 ** 30
const machine = (gigabytes: number, cpus = 2): TuningInput => ({ memoryBytes: gigabytes * GB, cpus, profile: 'production' })
const SETTLE_MS = 10_000

test('what differs, and which of it a reload applies', () => {
  const inForce = settingsOf(planTuning(machine(4)))
  const wanted = planTuning(machine(8))
  const changed = differences(inForce, wanted)
  assert.deepEqual(
    changed.find(({ name }) => name === 'shared_buffers'),
    { name: 'shared_buffers', from: '1024MB', to: '2048MB', restart: true },
  )
  assert.ok(changed.some(({ name, restart }) => name === 'work_mem' && !restart))
  assert.ok(!changed.some(({ name }) => name === 'huge_pages'))
  const reloaded = reloadableOnly(inForce, wanted)
  assert.equal(reloaded['shared_buffers'], '1024MB')
  assert.equal(reloaded['work_mem'], settingsOf(wanted)['work_mem'])
  assert.deepEqual(differences(settingsOf(wanted), wanted), [])
})

const pairs: [string, TuningInput, TuningInput, boolean][] = [
  ['itself', machine(4), machine(4), true],
  ['a balloon that breathes', machine(4), machine(4.1), true],
  ['a tenth more memory', machine(4), machine(4.4), false],
  ['one more processor', machine(4), machine(4, 3), false],
  ['another tier', machine(4), { ...machine(4), tier: 'replica' }, false],
  ['the same volume', { ...machine(4), volumeBytes: 100 * GB }, { ...machine(4), volumeBytes: 101 * GB }, true],
  ['a grown volume', { ...machine(4), volumeBytes: 100 * GB }, { ...machine(4), volumeBytes: 200 * GB }, false],
  ['a volume known on one side only', machine(4), { ...machine(4), volumeBytes: 200 * GB }, false],
]
for (const [name, a, b, same] of pairs) {
  test(`the same machine or another: ${name}`, () => {
    assert.equal(isSameMachine(a, b), same)
    assert.equal(isSameMachine(b, a), same)
  })
}

/** What is read at which time, and whether that starts a retune. */
const observations: { name: string; applied?: TuningInput; steps: [at: number, read: TuningInput, retune: boolean][] }[] = [
  { name: 'nothing changes', steps: [[0, machine(4), false], [60_000, machine(4), false]] },
  { name: 'a change that stays', steps: [[0, machine(8), false], [5_000, machine(8), false], [10_000, machine(8), true]] },
  {
    name: 'memory first, processors next: one retune',
    steps: [[0, machine(8), false], [6_000, machine(8, 4), false], [12_000, machine(8, 4), false], [16_000, machine(8, 4), true]],
  },
  { name: 'there and back', steps: [[0, machine(8), false], [5_000, machine(4), false], [20_000, machine(4), false]] },
]
for (const { name, steps } of observations) {
  test(`when to retune: ${name}`, () => {
    let watch: Watch = quiet
    for (const [at, read, retune] of steps) {
      const seen = observe(watch, machine(4), read, at, SETTLE_MS)
      assert.equal(seen.retune, retune, `at ${at}`)
      watch = seen.watch
    }
  })
}

test('a retune that could not be done is tried again later and later, and at once after another change', () => {
  let watch = observe(quiet, machine(4), machine(8), 0, 0).watch
  const delays: number[] = []
  for (let now = 0, round = 0; round < 7; round++) {
    watch = afterFailure(watch, now)
    assert.equal(observe(watch, machine(4), machine(8), watch.notBefore - 1, 0).retune, false)
    assert.equal(observe(watch, machine(4), machine(8), watch.notBefore, 0).retune, true)
    delays.push(watch.notBefore - now)
    now = watch.notBefore
  }
  assert.deepEqual(delays, [30_000, 60_000, 120_000, 240_000, 480_000, 600_000, 600_000])
  assert.equal(observe(watch, machine(4), machine(16), 1, 0).retune, true)
})

test('what is half in force is finished or taken back, also when the machine is as it was', () => {
  const seen = observe(quiet, undefined, machine(4), 0, SETTLE_MS)
  assert.equal(seen.retune, false)
  assert.equal(observe(seen.watch, undefined, machine(4), SETTLE_MS, SETTLE_MS).retune, true)
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decideWorkers, type LoadHistory, noLoad, type WorkerLoad } from '../../src/manage/pooler-load.ts'

/** The number of workers after each of these samples; every worker has the same share of the load. */
function play(cpuTotals: readonly number[], most: number, start = 1, clients = 0): number[] {
  let history: LoadHistory = noLoad
  let workers = start
  return cpuTotals.map((total) => {
    const loads: WorkerLoad[] = Array.from({ length: workers }, () => ({ cpu: Math.min(1, total / workers), clients: clients / workers }))
    const decision = decideWorkers(history, loads, most)
    history = decision.history
    if (decision.action === 'add') workers++
    if (decision.action === 'shed') workers--
    return workers
  })
}
const times = (count: number, value: number): number[] => Array<number>(count).fill(value)

test('a worker is added when they are busy for three samples in a row', () => {
  assert.deepEqual(play(times(3, 0.9), 4), [1, 1, 2])
  assert.deepEqual(play([0.9, 0.9, 0.1, 0.9, 0.9], 4), [1, 1, 1, 1, 1])
  assert.deepEqual(play(times(12, 9), 3), [1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3])
})

test('a worker that is full of clients asks for another one, however idle it is', () => {
  assert.equal(play(times(3, 0), 2, 1, 0.9).at(-1), 2)
})

test('there is never more than the most, and never less than one', () => {
  assert.equal(play(times(50, 1), 1).at(-1), 1)
  assert.equal(play(times(200, 0), 4, 1).at(-1), 1)
})

test('one is shed when the others would be relaxed without it, for two minutes', () => {
  assert.equal(play(times(23, 0.1), 4, 2).at(-1), 2)
  assert.equal(play(times(24, 0.1), 4, 2).at(-1), 1)
  assert.equal(play(times(200, 0.1), 4, 4).at(-1), 1)
})

test('at no steady load do adding and shedding take turns', () => {
  for (let load = 0; load <= 8; load += 0.05) {
    for (let start = 1; start <= 4; start++) {
      const seen = play(times(300, load), 4, start)
      const turns = seen.slice(1).map((count, at) => Math.sign(count - seen[at])).filter(Boolean)
      assert.ok(new Set(turns).size <= 1, `load ${load} from ${start} workers: ${seen.join(' ')}`)
    }
  }
})

test('no worker, as while all of them start, decides nothing', () => {
  assert.equal(decideWorkers(noLoad, [], 4).action, 'keep')
})

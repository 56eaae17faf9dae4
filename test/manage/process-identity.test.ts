import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { identify, isAlive, parseStat } from '../../src/manage/process-identity.ts'

test('survives names with parentheses, and a zombie is not alive', async () => {
  const line = `7 (odd) name (x)) S ${Array.from({ length: 18 }, (_, at) => at).join(' ')} 4711 9`
  assert.deepEqual(parseStat(line), { state: 'S', startTime: '4711' })
  const child = spawn('sleep', ['60'])
  const identity = identify(child.pid ?? 0)
  assert.ok(identity && isAlive(identity))
  assert.equal(isAlive({ ...identity, startTime: '1' }), false, 'another process of the same number')
  assert.equal(isAlive({ ...identity, bootId: 'earlier' }), false)
  child.kill('SIGKILL')
  await once(child, 'exit')
  assert.equal(isAlive(identity), false)
})

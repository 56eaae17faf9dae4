import assert from 'node:assert/strict'
import { EventEmitter } from 'node:events'
import { test } from 'node:test'
import { stopSignals } from '../../src/manage/stop-signals.ts'

test('the echo of a Ctrl-C is no second one', () => {
  const source = new EventEmitter()
  let now = 0
  const { stop, hurry } = stopSignals(source, () => now)
  source.emit('SIGINT')
  assert.deepEqual([stop.aborted, hurry.aborted], [true, false])
  now = 50
  source.emit('SIGINT')
  assert.equal(hurry.aborted, false)
  now = 600
  source.emit('SIGINT')
  assert.equal(hurry.aborted, true)
})

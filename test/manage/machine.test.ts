import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseLimit, parseOpenFiles } from '../../src/manage/machine.ts'

test('limits of memory and open files', () => {
  assert.equal(parseLimit('536870912\n'), 536_870_912)
  assert.equal(parseLimit('max\n'), Number.POSITIVE_INFINITY)
  assert.equal(parseLimit(''), Number.POSITIVE_INFINITY)
  assert.equal(parseOpenFiles('Limit  Soft Limit\nMax open files            20000                20000                files\n'), 20_000)
  assert.equal(parseOpenFiles('Max open files            unlimited            unlimited            files'), 1_048_576)
  assert.equal(parseOpenFiles(''), 1024)
})

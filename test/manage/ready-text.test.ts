import assert from 'node:assert/strict'
import { test } from 'node:test'
import { shellWord } from '../../src/manage/ready-text.ts'

test('shell words are read back as they were', () => {
  assert.equal(shellWord('/a/b-c.d'), '/a/b-c.d')
  assert.equal(shellWord("it's here"), "'it'\\''s here'")
})

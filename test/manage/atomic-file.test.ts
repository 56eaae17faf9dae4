import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { writeFileAtomic } from '../../src/manage/atomic-file.ts'

test('looks before it acts, sets the mode, follows no link', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'beyond-file-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const path = join(directory, 'file')
  assert.equal(writeFileAtomic(path, 'one', { mode: 0o600 }), true)
  assert.equal(writeFileAtomic(path, 'one', { mode: 0o640 }), false)
  assert.equal(statSync(path).mode & 0o777, 0o640)
  const elsewhere = join(directory, 'elsewhere')
  writeFileSync(elsewhere, 'theirs')
  symlinkSync(elsewhere, `${path}.beyond-new`)
  assert.equal(writeFileAtomic(path, 'two', { mode: 0o600 }), true)
  assert.equal(readFileSync(elsewhere, 'utf8'), 'theirs')
  rmSync(path)
  symlinkSync(elsewhere, path)
  writeFileAtomic(path, 'three', { mode: 0o600 })
  assert.equal(readFileSync(elsewhere, 'utf8'), 'theirs')
  assert.equal(readFileSync(path, 'utf8'), 'three')
  assert.deepEqual(readdirSync(directory).sort(), ['elsewhere', 'file'])
})

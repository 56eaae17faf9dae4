import assert from 'node:assert/strict'
import { chmodSync, existsSync, lstatSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { BeyondError } from '../../src/errors.ts'
import { lookAtLayout, openLayout, readMarker, removeTemporarySockets, writeMarker } from '../../src/manage/layout.ts'

const options = { isDefault: false, explain: () => undefined }

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'beyond-layout-'))
  chmodSync(path, 0o755)
  t.after(() => rmSync(path, { recursive: true }))
  return path
}

test('makes its folders once, for nobody else', (t) => {
  const path = join(folder(t), 'deep/er')
  const layout = openLayout(path, options)
  const { id, ...marker } = readMarker(layout) ?? {}
  assert.deepEqual(marker, { version: 1, initialized: false })
  assert.match(id ?? '', /^[0-9a-f]{8}$/)
  assert.deepEqual(lookAtLayout(path), { layout, missing: [] })
  for (const name of ['', 'secrets', 'tls', 'log', 'config', 'run', 'cdc', 'run/sockets']) assert.equal(statSync(join(path, name)).mode & 0o007, 0, name)
  for (const name of ['postgres', 'box.json']) assert.ok(!existsSync(join(path, name)))
  writeMarker(layout, { version: 1, initialized: true })
  assert.deepEqual(openLayout(path, options), layout)
  assert.deepEqual(readMarker(layout), { version: 1, initialized: true })
})

test('an empty directory, or a fresh volume, will do', (t) => {
  const path = join(folder(t), 'volume')
  mkdirSync(join(path, 'lost+found'), { recursive: true })
  assert.equal(openLayout(path, options).root, path)
})

test('sockets lie in a short private folder when their path would be too long or odd', (t) => {
  const base = folder(t)
  for (const name of ['x'.repeat(90), 'a blank']) {
    const layout = openLayout(join(base, name), options)
    const again = openLayout(join(base, name), options)
    assert.equal(again.sockets, layout.sockets)
    assert.ok(layout.sockets.startsWith(tmpdir()) && layout.sockets.length < 90)
    assert.equal(statSync(layout.sockets).mode & 0o777, 0o700)
    assert.equal(statSync(layout.sockets).uid, layout.account.uid)
    removeTemporarySockets(layout)
    assert.ok(!existsSync(layout.sockets))
  }
  const near = openLayout(join(base, 'near'), options)
  removeTemporarySockets(near)
  assert.ok(existsSync(near.sockets), 'what is inside stays')
})

test('a link in the place of the temporary folder is not followed', (t) => {
  const base = folder(t)
  const path = join(base, 'with a blank')
  const { sockets } = openLayout(path, options)
  rmSync(sockets, { recursive: true })
  symlinkSync(base, sockets)
  try {
    assert.throws(() => openLayout(path, options), (error) => error instanceof BeyondError && error.code === 'DATA_DIRECTORY')
    assert.ok(lstatSync(sockets).isSymbolicLink())
  } finally {
    rmSync(sockets)
  }
})

import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { BeyondError } from '../../src/errors.ts'
import { genesisPosition, genesisReached, newManifest, readManifest, writeManifest } from '../../src/log/manifest.ts'
import { toLsn } from '../../src/wal/lsn.ts'
import { LogFolder, manifest } from './log-folder.ts'

const code = (expected: string) => (error: unknown) => error instanceof BeyondError && error.code === expected

test('a manifest is read back as it was written', async () => {
  await using folder = await LogFolder.make()
  assert.equal(await readManifest(folder.path), undefined)
  await writeManifest(folder.path, manifest)
  assert.deepEqual(await readManifest(folder.path), manifest)
})

test('a new history begins right before the consistent point of the slot, each with a chain of its own', () => {
  const { systemId, database, slot, publication } = manifest
  const make = () => newManifest({ systemId, database, slot, publication, genesis: toLsn(0x2000n) }, new Date(0))
  assert.equal(make().genesis, 0x1fffn)
  assert.equal(genesisReached(make()), 0x2000n)
  assert.notDeepEqual(genesisPosition(make()).chain, genesisPosition(make()).chain)
  assert.equal(
    Buffer.from(genesisPosition(manifest).chain).toString('hex'),
    'ad6d9fd7cd55ed00279f2d30596596e2e8e60948b8a0d3dcd6df0a70c9e96ea7',
  )
})

test('what is not a manifest is LOG_CORRUPT', async () => {
  await using folder = await LogFolder.make()
  await writeManifest(folder.path, manifest)
  const path = join(folder.path, 'manifest.json')
  for (const text of ['', '{}', '{"version":9}', JSON.stringify({ version: 1, ...manifest, genesis: '0' }), JSON.stringify({ version: 1, ...manifest, genesis: '0/1', history: 'x' })]) {
    await writeFile(path, text)
    await assert.rejects(readManifest(folder.path), code('LOG_CORRUPT'))
  }
})

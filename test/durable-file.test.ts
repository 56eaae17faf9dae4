import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { makeDirectoryDurably, writeAll, writeFileDurably } from '../src/durable-file.ts'
import { LogFolder } from './log/log-folder.ts'

const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000_000)

test(`short writes are gone on with, wherever they stop (seed ${seed})`, async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 9 }), { maxLength: 60 }), fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1 }), async (parts, steps) => {
      const buffers = parts.map((part) => Buffer.from(part))
      const disk = Buffer.alloc(5 + buffers.reduce((sum, { length }) => sum + length, 0))
      let call = 0
      const writev = async (given: readonly NodeJS.ArrayBufferView[], position?: number | null) => {
        assert.ok(given.length <= 1024)
        const bytes = Buffer.concat(given as Buffer[])
        const bytesWritten = Math.min(bytes.length, steps[call++ % steps.length])
        bytes.copy(disk, position!, 0, bytesWritten)
        return { bytesWritten, buffers: given as never }
      }
      await writeAll({ writev }, buffers, 5)
      assert.ok(disk.subarray(5).equals(Buffer.concat(buffers)))
    }),
    { seed },
  )
})

test('more buffers than one call takes', async () => {
  const disk: Buffer[] = []
  const writev = async (given: readonly NodeJS.ArrayBufferView[]) => {
    assert.ok(given.length <= 1024)
    disk.push(...(given as Buffer[]))
    return { bytesWritten: given.length, buffers: given as never }
  }
  await writeAll({ writev }, Array.from({ length: 3000 }, (_, i) => Buffer.from([i & 0xff])), 0)
  assert.equal(disk.length, 3000)
})

test('a write that takes nothing is an error, not an endless loop', async () => {
  await assert.rejects(writeAll({ writev: async () => ({ bytesWritten: 0, buffers: [] as never }) }, [Buffer.from('a')], 0))
})

test('a file is replaced whole, folders are made, nothing is left beside', async () => {
  await using folder = await LogFolder.make()
  const path = join(folder.path, 'a', 'b')
  await makeDirectoryDurably(path)
  await makeDirectoryDurably(path)
  await writeFileDurably(join(path, 'file'), 'one')
  await writeFileDurably(join(path, 'file'), 'two')
  assert.deepEqual(await readdir(path), ['file'])
  assert.equal(await readFile(join(path, 'file'), 'utf8'), 'two')
  await assert.rejects(writeFileDurably(join(path, 'missing', 'file'), 'x'))
})

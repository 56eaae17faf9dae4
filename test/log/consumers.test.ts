import assert from 'node:assert/strict'
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { BeyondError } from '../../src/errors.ts'
import { ConsumerStore } from '../../src/log/consumers.ts'
import type { Position } from '../../src/transport/envelopes.ts'
import { toLsn } from '../../src/wal/lsn.ts'
import { LogFolder } from './log-folder.ts'

const code = (expected: string) => (error: unknown) => error instanceof BeyondError && error.code === expected
const position = (n: number): Position => ({ lsn: toLsn(0x16b3_0000_0000n + BigInt(n)), chain: Buffer.alloc(32, n) })

test('a cursor holds at once, and after a flush for good', async () => {
  await using folder = await LogFolder.make()
  const consumers = await ConsumerStore.open(folder.path)
  const at = new Date('2026-03-04T05:06:07.008Z')
  consumers.set('billing', position(1), at)
  assert.deepEqual(consumers.get('billing'), position(1))
  assert.equal((await ConsumerStore.open(folder.path)).get('billing'), undefined)
  await consumers.flush()
  const again = await ConsumerStore.open(folder.path)
  assert.deepEqual(again.list(), [{ name: 'billing', position: position(1), updatedAt: at }])
  assert.deepEqual(JSON.parse(await readFile(join(folder.path, 'consumers', 'billing.json'), 'utf8')), {
    version: 1,
    name: 'billing',
    lsn: '16B3/1',
    chain: '01'.repeat(32),
    updatedAt: '2026-03-04T05:06:07.008Z',
  })
})

test('many moves cost one write, and a move during a flush is in the next one', async () => {
  await using folder = await LogFolder.make()
  const consumers = await ConsumerStore.open(folder.path)
  for (let n = 1; n <= 100; n++) consumers.set('a', position(n))
  const first = consumers.flush()
  assert.equal(consumers.flush(), first)
  await first
  const { ino } = await stat(join(folder.path, 'consumers', 'a.json'))
  // Nothing to write: the file stays the one it is.
  await consumers.flush()
  assert.equal((await stat(join(folder.path, 'consumers', 'a.json'))).ino, ino)
  consumers.set('a', position(101))
  consumers.set('b', position(1))
  const running = consumers.flush()
  await Promise.resolve()
  await Promise.resolve()
  consumers.set('a', position(102))
  consumers.set('c', position(3))
  await Promise.all([running, consumers.flush()])
  const again = await ConsumerStore.open(folder.path)
  assert.deepEqual(again.list().map(({ name, position: { lsn } }) => [name, lsn]), [['a', position(102).lsn], ['b', position(1).lsn], ['c', position(3).lsn]])
})

test('a chain is copied: the buffer that it came in may change', async () => {
  await using folder = await LogFolder.make()
  const consumers = await ConsumerStore.open(folder.path)
  const chain = Buffer.alloc(32, 7)
  consumers.set('a', { lsn: toLsn(1n), chain })
  chain.fill(0)
  assert.deepEqual(consumers.get('a')?.chain, Buffer.alloc(32, 7))
})

test('a consumer that was removed stays away', async () => {
  await using folder = await LogFolder.make()
  const consumers = await ConsumerStore.open(folder.path)
  consumers.set('a', position(1))
  consumers.set('never-written', position(1))
  consumers.remove('never-written')
  await consumers.flush()
  assert.ok(consumers.remove('a'))
  assert.ok(!consumers.remove('a'))
  await consumers.flush()
  assert.deepEqual(await readdir(join(folder.path, 'consumers')), [])
  assert.deepEqual((await ConsumerStore.open(folder.path)).list(), [])
})

test('names are checked, and so is their number', async () => {
  await using folder = await LogFolder.make()
  const consumers = await ConsumerStore.open(folder.path)
  for (const name of ['', 'A', 'a.b', '../a', 'a'.repeat(64), 'a\n', 'é']) {
    assert.throws(() => consumers.set(name, position(1)), code('BAD_REQUEST'))
    assert.throws(() => consumers.remove(name), code('BAD_REQUEST'))
    assert.equal(consumers.get(name), undefined)
  }
  consumers.set('a'.repeat(63), position(1))
  for (let i = 1; i < 1000; i++) consumers.set(`c_${i}`, position(1))
  assert.throws(() => consumers.set('one-more', position(1)), code('TOO_MANY'))
  consumers.set('c_1', position(2))
  consumers.remove('c_2')
  consumers.set('one-more', position(1))
})

test('a flush that fails says so, and the next one writes', async () => {
  await using folder = await LogFolder.make()
  const consumers = await ConsumerStore.open(folder.path)
  consumers.set('a', position(1))
  await rm(join(folder.path, 'consumers'), { recursive: true })
  await assert.rejects(consumers.flush(), code('INTERNAL'))
  await mkdir(join(folder.path, 'consumers'))
  await consumers.flush()
  assert.deepEqual((await ConsumerStore.open(folder.path)).get('a'), position(1))
})

test('damaged files are LOG_CORRUPT, what a crash left beside is cleared away', async () => {
  await using folder = await LogFolder.make()
  const consumers = await ConsumerStore.open(folder.path)
  consumers.set('a', position(1))
  await consumers.flush()
  const path = join(folder.path, 'consumers', 'a.json')
  await writeFile(`${path}.new`, '{"ver')
  await ConsumerStore.open(folder.path)
  assert.deepEqual(await readdir(join(folder.path, 'consumers')), ['a.json'])
  const text = await readFile(path, 'utf8')
  for (const [from, to] of [['"version": 1', '"version": 2'], ['"a"', '"b"'], ['16B3/1', '16B3'], ['01', 'zz'], ['20', 'xx'], ['{', 'null'], ['}', '']]) {
    await writeFile(path, text.replace(from, to))
    await assert.rejects(ConsumerStore.open(folder.path), code('LOG_CORRUPT'), `${from} → ${to}`)
  }
  await writeFile(path, '')
  await assert.rejects(ConsumerStore.open(folder.path), code('LOG_CORRUPT'))
  await writeFile(path, 'null')
  await assert.rejects(ConsumerStore.open(folder.path), code('LOG_CORRUPT'))
})

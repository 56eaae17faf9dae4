import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtemp, rm, rmdir, statfs, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { BeyondError } from '../../src/errors.ts'
import { ChangeLog } from '../../src/log/change-log.ts'
import { ConsumerStore } from '../../src/log/consumers.ts'
import { beginningOf } from '../../src/log/log-search.ts'
import { genesisPosition } from '../../src/log/manifest.ts'
import { builderFor, cutAppends, FINGERPRINT, TransactionBuilder, verifiedTransactions, wholeAppend } from '../support/log-frames.ts'
import { manifest, readAll, silent } from './log-folder.ts'

const code = (expected: string) => (error: unknown) => error instanceof BeyondError && error.code === expected
const BYTES = 512 * 1024

/** A file system that is soon full. Only root may make one, and not everywhere; else the reason why there is none. */
class SmallDisk implements AsyncDisposable {
  readonly path: string

  private constructor(path: string) {
    this.path = path
  }

  static async make(): Promise<SmallDisk | string> {
    if (process.getuid?.() !== 0) return 'only root may mount a small file system'
    const path = await mkdtemp(join(tmpdir(), 'beyond-small-disk-'))
    const { status, stderr, error } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${BYTES}`, 'tmpfs', path], { encoding: 'utf8' })
    if (status === 0) return new SmallDisk(path)
    await rmdir(path)
    return `a small file system can't be mounted here: ${error?.message ?? stderr.trim()}`
  }

  /** Takes all room but `rest` bytes. */
  async fill(rest: number): Promise<void> {
    const { bavail, bsize } = await statfs(this.path)
    await writeFile(join(this.path, 'filler'), Buffer.alloc(Math.max(0, bavail * bsize - rest)))
  }

  async makeRoom(): Promise<void> {
    await rm(join(this.path, 'filler'), { force: true })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    spawnSync('umount', ['-l', this.path])
    await rmdir(this.path)
  }
}

const openOn = (disk: SmallDisk, segmentBytes: number): Promise<ChangeLog> =>
  ChangeLog.open({ directory: join(disk.path, 'log'), manifest, logger: silent, segmentBytes, tailBytes: 0 })

test('a full disk is DISK_FULL; after a rollback the log goes on as soon as there is room', async (context) => {
  const disk = await SmallDisk.make()
  if (typeof disk === 'string') return context.skip(disk)
  await using _disk = disk
  {
    await using log = await openOn(disk, 1e9)
    const builder = builderFor(manifest)
    await log.append(wholeAppend([builder.next([50_000])]))
    const { head, end } = log
    const large = builder.next([200_000, 200_000, 200_000])
    const pieces = cutAppends([large, builder.next([10])], new Set([1, 2, 3])).map((what) => log.append(what))
    const settled = await Promise.allSettled(pieces)
    assert.ok(settled.every((result) => result.status === 'rejected' && code('DISK_FULL')(result.reason)))
    // Until the caller has taken notice nothing goes in, and readers have all that is durable.
    await assert.rejects(log.append(wholeAppend([builder.next([1])])), code('DISK_FULL'))
    await assert.rejects(log.mark(builder.lsn), code('DISK_FULL'))
    assert.deepEqual([log.head, log.end, log.pendingBytes], [head, end, 0])
    verifiedTransactions(await readAll(log, beginningOf(log)), genesisPosition(manifest))
    await log.rollback()

    // An open transaction is durable in part when the disk is full.
    await disk.fill(100_000)
    const again = new TransactionBuilder(log.head)
    const parts = cutAppends([again.next([60_000, 60_000, 60_000])], new Set([1, 2, 3]))
    await log.append(parts[0])
    await assert.rejects(log.append(parts[1]), code('DISK_FULL'))
    await log.rollback()
    assert.deepEqual([log.head, log.end], [head, end])
    const small = new TransactionBuilder(log.head)
    await log.append(wholeAppend([small.next([60_000])]))
    await assert.rejects(log.append(wholeAppend([small.next([60_000])])), code('DISK_FULL'))
    await disk.makeRoom()
    await log.rollback()
    const more = new TransactionBuilder(log.head)
    await log.append(wholeAppend([more.next([60_000]), more.next([60_000])]))
  }
  await using log = await openOn(disk, 1e9)
  assert.equal(verifiedTransactions(await readAll(log, beginningOf(log)), genesisPosition(manifest)).length, 4)
})

test('no room for a schema, a new segment or a cursor', async (context) => {
  const disk = await SmallDisk.make()
  if (typeof disk === 'string') return context.skip(disk)
  await using _disk = disk
  {
    await using log = await openOn(disk, 1)
    const consumers = await ConsumerStore.open(join(disk.path, 'log'))
    const builder = builderFor(manifest)
    await log.append(wholeAppend([builder.next([10])]))
    await disk.fill(0)
    consumers.set('a', log.head)
    await assert.rejects(consumers.flush(), code('DISK_FULL'))
    const schemas = [{ fingerprint: FINGERPRINT, schema: '"int"' }]
    const second = builder.next([10])
    for (const what of [{ ...wholeAppend([second]), schemas }, wholeAppend([second])]) {
      await assert.rejects(log.append(what), code('DISK_FULL'))
      await log.rollback()
    }
    await assert.rejects(log.append({ ...wholeAppend([second]), schemas }), code('DISK_FULL'))
    await disk.makeRoom()
    await log.rollback()
    await log.append({ ...wholeAppend([second]), schemas })
    await consumers.flush()
    assert.equal(log.segments.length, 2)
  }
  await using log = await openOn(disk, 1)
  assert.equal(log.schemas.get(FINGERPRINT), '"int"')
  assert.equal((await ConsumerStore.open(join(disk.path, 'log'))).list().length, 1)
  assert.equal(verifiedTransactions(await readAll(log, beginningOf(log)), genesisPosition(manifest)).length, 2)
})

test('a disk that is full from the start', async (context) => {
  const disk = await SmallDisk.make()
  if (typeof disk === 'string') return context.skip(disk)
  await using _disk = disk
  await disk.fill(0)
  await assert.rejects(openOn(disk, 1e9), code('DISK_FULL'))
  await disk.makeRoom()
  await using log = await openOn(disk, 1e9)
  assert.equal(log.head.lsn, manifest.genesis)
})

import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { test } from 'node:test'
import { BeyondError } from '../../src/errors.ts'
import { LogCursor } from '../../src/log/log-cursor.ts'
import { beginningOf } from '../../src/log/log-search.ts'
import { expiredSegments, type RetentionPolicy } from '../../src/log/retention.ts'
import type { Base } from '../../src/log/segment.ts'
import { toLsn } from '../../src/wal/lsn.ts'
import { builderFor, wholeAppend } from '../support/log-frames.ts'
import { LogFolder, manifest, readAll } from './log-folder.ts'

const code = (expected: string) => (error: unknown) => error instanceof BeyondError && error.code === expected
const base = (lsn: number, time: bigint): Base => ({ lsn: toLsn(BigInt(lsn)), endLsn: toLsn(BigInt(lsn)), time, chain: Buffer.alloc(32) })
/** Four segments of 100 bytes; the newest transactions of the first three are 30, 20 and 10 s old. */
const NOW = 1_000_000_000n
const segments = [
  { base: base(0, 0n), size: 100 },
  { base: base(10, NOW - 30_000_000n), size: 100 },
  { base: base(20, NOW - 20_000_000n), size: 100 },
  { base: base(30, NOW - 10_000_000n), size: 100 },
]
const all: RetentionPolicy = { maxBytes: 1e9, maxAgeMs: 1e9, maxConsumerBytes: 1e9 }

const cases: [string, Partial<RetentionPolicy>, number[], number][] = [
  ['nothing is too large or too old', {}, [], 0],
  ['size', { maxBytes: 250 }, [], 2],
  ['exactly the size', { maxBytes: 300 }, [], 1],
  ['the newest segment stays', { maxBytes: 0 }, [], 3],
  ['age', { maxAgeMs: 15_000 }, [], 2],
  ['exactly the age', { maxAgeMs: 20_000 }, [], 1],
  ['a consumer holds what follows its position', { maxBytes: 0 }, [15], 1],
  ['a consumer at a border has no need of what lies before', { maxBytes: 0 }, [20], 2],
  ['the slowest consumer counts', { maxBytes: 0 }, [30, 5, 20], 0],
  ['a consumer holds against age, too', { maxAgeMs: 0 }, [25], 2],
  ['up to its own limit', { maxBytes: 0, maxConsumerBytes: 250 }, [0], 2],
  ['a consumer that has everything holds nothing', { maxBytes: 0 }, [99], 3],
]
for (const [name, policy, consumers, expected] of cases)
  test(`retention: ${name}`, () => {
    assert.equal(expiredSegments(segments, { ...all, ...policy }, consumers.map((lsn) => toLsn(BigInt(lsn))), NOW), expected)
  })

test('retention: messages without a commit time are not old', () => {
  const timeless = segments.map((segment) => ({ ...segment, base: { ...segment.base, time: 0n } }))
  assert.equal(expiredSegments(timeless, { ...all, maxAgeMs: 1 }, [], NOW), 0)
})

test('retention: a segment without a transaction goes first of all', () => {
  const idle = [{ base: base(0, 0n), size: 10 }, { base: base(0, 0n), size: 10 }, ...segments.slice(1)]
  assert.equal(expiredSegments(idle, all, [toLsn(0n)], NOW), 1)
})

test('removed segments are gone from the folder; a reader in the middle of one is told, or reads on', async () => {
  await using folder = await LogFolder.make()
  const builder = builderFor(manifest)
  const transactions = Array.from({ length: 30 }, (_, i) => builder.next([300], { fill: i }))
  await using log = await folder.open({ segmentBytes: 1_500, tailBytes: 0 })
  for (const transaction of transactions) await log.append(wholeAppend([transaction]))
  await using early = new LogCursor(log, beginningOf(log))
  await early.read()
  const consumer = transactions[12]
  const policy = { maxBytes: 0, maxAgeMs: 1e12, maxConsumerBytes: 1e9 }
  assert.ok((await log.retain(policy, [consumer.lsn], 0n)) > 0)
  assert.equal(await log.retain(policy, [consumer.lsn], 0n), 0)
  assert.ok(log.oldest.lsn <= consumer.lsn)
  assert.deepEqual((await readdir(folder.path)).filter((name) => name.endsWith('.log')).length, log.segments.length)
  await assert.rejects(early.read(), code('POSITION_TOO_OLD'))
  const first = transactions.findIndex(({ lsn }) => lsn > log.oldest.lsn)
  const kept = Buffer.concat(transactions.slice(first).map(({ bytes }) => bytes))
  assert.ok((await readAll(log, beginningOf(log))).equals(kept))
  await using again = await folder.open()
  assert.deepEqual(again.oldest, log.oldest)
  assert.ok((await readAll(again, beginningOf(again))).equals(kept))
})

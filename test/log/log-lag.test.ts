import assert from 'node:assert/strict'
import { test } from 'node:test'
import { lagAfter, lagAt } from '../../src/log/log-lag.ts'
import { genesisPosition } from '../../src/log/manifest.ts'
import { builderFor, wholeAppend } from '../support/log-frames.ts'
import { LogFolder, manifest } from './log-folder.ts'

/** Ten transactions, a second apart, the first at 1,000 s. */
async function tenSeconds(tailBytes: number) {
  const folder = await LogFolder.make()
  const log = await folder.open({ segmentBytes: 1024 * 1024, tailBytes })
  const builder = builderFor(manifest)
  const transactions = Array.from({ length: 10 }, (_, i) => builder.next([1000], { time: BigInt(1_000 + i) * 1_000_000n }))
  for (const transaction of transactions) await log.append(wholeAppend([transaction]))
  return { folder, log, transactions }
}
const NOW_MS = 1_020_000

test('a reader at the end lacks nothing', async () => {
  const { folder, log, transactions } = await tenSeconds(1024 * 1024)
  await using _folder = folder
  await using _log = log
  assert.deepEqual(lagAt(log, log.end, NOW_MS), { bytes: 0n, ms: 0n })
  assert.deepEqual(await lagAfter(log, transactions[9], NOW_MS), { bytes: 0n, ms: 0n })
})

test('behind, it lacks what follows, and is as old as the first of that', async () => {
  const { folder, log, transactions } = await tenSeconds(1024 * 1024)
  await using _folder = folder
  await using _log = log
  const behind = await lagAfter(log, transactions[3], NOW_MS)
  assert.equal(behind.ms, BigInt(NOW_MS - 1_004_000))
  const rest = transactions.slice(4).reduce((sum, { bytes }) => sum + bytes.length, 0)
  assert.ok(behind.bytes >= rest && behind.bytes < rest + 6 * 200, `${behind.bytes} bytes for ${rest} of frames`)
  const all = await lagAfter(log, genesisPosition(manifest), NOW_MS)
  assert.ok(all.bytes > behind.bytes && all.ms === 20_000n)
})

test('far behind, where only the files know, time is a bound from the index', async () => {
  const { folder, log, transactions } = await tenSeconds(1)
  await using _folder = folder
  await using _log = log
  const behind = await lagAfter(log, transactions[3], NOW_MS)
  assert.ok(behind.bytes > 0n)
  assert.ok(behind.ms === 0n || behind.ms >= 16_000n, `${behind.ms} ms`)
})

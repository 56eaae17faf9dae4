import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { beforeHead, beginningOf, endOf, findPosition, findTime, lastShared } from '../../src/log/log-search.ts'
import { genesisPosition } from '../../src/log/manifest.ts'
import { toLsn } from '../../src/wal/lsn.ts'
import { builderFor, cutAppends, TransactionBuilder, wholeAppend, type TestTransaction } from '../support/log-frames.ts'
import { LogFolder, manifest, readAll } from './log-folder.ts'

const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000_000)
const from = (transactions: readonly TestTransaction[], index: number): Buffer => Buffer.concat(transactions.slice(index).map(({ bytes }) => bytes))
const position = ({ lsn, chain }: TestTransaction) => ({ lsn, chain })

test('a broken chain is told from a position that is ahead, too old or between transactions', async () => {
  await using folder = await LogFolder.make()
  await using log = await folder.open({ segmentBytes: 500 })
  const builder = builderFor(manifest)
  const transactions = Array.from({ length: 20 }, (_, i) => builder.next([100], { fill: i }))
  for (const transaction of transactions) await log.append(wholeAppend([transaction]))
  const other = Buffer.alloc(32, 9)
  for (const after of transactions) {
    assert.equal((await findPosition(log, after)).found, 'place')
    assert.equal((await findPosition(log, { ...after, chain: other })).found, 'broken')
    assert.equal((await findPosition(log, { ...after, lsn: toLsn(after.lsn - 1n) })).found, 'broken')
  }
  assert.equal((await findPosition(log, genesisPosition(manifest))).found, 'place')
  assert.equal((await findPosition(log, { ...genesisPosition(manifest), chain: other })).found, 'broken')
  assert.equal((await findPosition(log, { lsn: toLsn(manifest.genesis - 1n), chain: other })).found, 'broken')
  assert.equal((await findPosition(log, { lsn: toLsn(builder.lsn + 1n), chain: other })).found, 'ahead')

  assert.deepEqual(await beforeHead(log), position(transactions[18]))
  const removed = await log.retain({ maxBytes: 2_000, maxAgeMs: 1e12, maxConsumerBytes: 1e9 }, [], 0n)
  assert.ok(removed > 0)
  assert.equal((await findPosition(log, genesisPosition(manifest))).found, 'too-old')
  assert.equal((await findPosition(log, transactions[0])).found, 'too-old')
  assert.equal((await findPosition(log, log.oldest)).found, 'place')
  assert.equal(await lastShared(log, [transactions[0], genesisPosition(manifest)]), undefined)
})

test('the newest shared position of two histories', async () => {
  await using folder = await LogFolder.make()
  await using log = await folder.open({ segmentBytes: 700 })
  const builder = builderFor(manifest)
  const shared = Array.from({ length: 5 }, () => builder.next([100]))
  const fork = new TransactionBuilder({ lsn: builder.lsn, chain: builder.chain })
  const ours = Array.from({ length: 5 }, () => builder.next([100]))
  const theirs = Array.from({ length: 5 }, () => fork.next([101]))
  await log.append(wholeAppend([...shared, ...ours]))
  assert.equal((await findPosition(log, theirs[2])).found, 'broken')
  const candidates = [shared[1], theirs[4], shared[3], theirs[0], genesisPosition(manifest)]
  assert.deepEqual(await lastShared(log, candidates), shared[3])
  assert.equal(await lastShared(log, theirs), undefined)
})

test('a message outside of a transaction right at the consistent point has a position of its own', async () => {
  await using folder = await LogFolder.make()
  await using log = await folder.open()
  const message = builderFor(manifest).next([5], { gap: 1n, time: 0n })
  assert.equal(message.lsn, log.reached)
  await log.append(wholeAppend([message]))
  const found = await findPosition(log, genesisPosition(manifest))
  assert.ok(found.found === 'place')
  assert.ok((await readAll(log, found.place)).equals(message.bytes))
  assert.deepEqual(await beforeHead(log), genesisPosition(manifest))
})

test('beforeHead in a new log, in one block, and when retention took it', async () => {
  await using folder = await LogFolder.make()
  await using log = await folder.open({ segmentBytes: 300 })
  assert.equal(await beforeHead(log), undefined)
  const builder = builderFor(manifest)
  const transactions = [builder.next([1]), builder.next([2]), builder.next([3])]
  await log.append(wholeAppend(transactions))
  assert.deepEqual(await beforeHead(log), position(transactions[1]))
  const next = builder.next([200, 200])
  for (const what of cutAppends([next], new Set([1, 2]))) await log.append(what)
  assert.deepEqual(await beforeHead(log), position(transactions[2]))
  await log.mark(toLsn(0x100000n))
  await log.mark(toLsn(0x100001n))
  assert.deepEqual(await beforeHead(log), position(transactions[2]))
  // What is left always holds the newest transaction, though only marks came after it.
  await log.retain({ maxBytes: 200, maxAgeMs: 1e12, maxConsumerBytes: 1e9 }, [], 0n)
  assert.deepEqual(await beforeHead(log), position(transactions[2]))
})

const MICROS = 1_700_000_000_000_000n

describe(`search by commit time (seed ${seed})`, () => {
  test('begins at the first transaction that is late enough, whatever blocks and order they are in', async () => {
    const cases = fc.record({
      // Steps of milliseconds, now and then a little back; null is a message without a time.
      steps: fc.array(fc.option(fc.oneof({ weight: 4, arbitrary: fc.nat(900) }, { weight: 1, arbitrary: fc.integer({ min: -400, max: 0 }) }), { freq: 6 }), { minLength: 1, maxLength: 40 }),
      cuts: fc.array(fc.nat(200), { maxLength: 40 }).map((cuts) => new Set(cuts)),
      segmentBytes: fc.constantFrom(1, 600, 1_000_000),
      reopen: fc.boolean(),
    })
    await fc.assert(
      fc.asyncProperty(cases, async ({ steps, cuts, segmentBytes, reopen }) => {
        await using folder = await LogFolder.make()
        const builder = builderFor(manifest)
        let clock = MICROS
        let latest = MICROS
        const transactions = steps.map((step, i) => {
          if (step === null) return builder.next([5], { time: 0n })
          // Disorder is small: nobody is more than half a second behind.
          clock += BigInt(step) * 1000n
          if (clock < latest - 500_000n) clock = latest - 500_000n
          if (clock > latest) latest = clock
          return builder.next([i, 30], { time: clock })
        })
        const written = await folder.open({ segmentBytes })
        for (const what of cutAppends(transactions, cuts)) await written.append(what)
        if (reopen) await written[Symbol.asyncDispose]()
        await using log = reopen ? await folder.open({ segmentBytes }) : written
        const times = transactions.map(({ time }) => time).filter((time) => time > 0n)
        for (const micros of new Set([1n, ...times, ...times.map((time) => time + 1n)])) {
          const expected = transactions.findIndex(({ time }) => time >= micros)
          const place = await findTime(log, micros)
          const read = await readAll(log, place)
          assert.ok(read.equals(expected === -1 ? Buffer.alloc(0) : from(transactions, expected)), `${micros}`)
          const before = expected === -1 ? transactions.at(-1) : transactions[expected - 1]
          assert.deepEqual(place.after, before ? position(before) : genesisPosition(manifest))
        }
      }),
      { seed, numRuns: 60 },
    )
  })
})

test('a transaction longer than many blocks is found by its time', async () => {
  await using folder = await LogFolder.make()
  await using log = await folder.open({ segmentBytes: 1_000_000, tailBytes: 1000 })
  const builder = builderFor(manifest)
  const early = builder.next([10], { time: MICROS })
  const long = builder.next([400_000, 10, 700_000, 10], { time: MICROS + 60_000_000n })
  const late = builder.next([10], { time: MICROS + 120_000_000n })
  for (const what of cutAppends([early, long, late], new Set([2, 3, 4, 5, 6, 7, 8]))) await log.append(what)
  const place = await findTime(log, MICROS + 30_000_000n)
  assert.deepEqual(place.after, position(early))
  assert.ok((await readAll(log, place)).equals(from([long, late], 0)))
  assert.deepEqual((await findTime(log, MICROS + 60_000_001n)).after, position(long))
  assert.deepEqual(await findTime(log, MICROS + 120_000_001n), endOf(log))
  assert.deepEqual((await findTime(log, 0n)).after, beginningOf(log).after)
})

test('the index is right after a cut, and is built again when it was dropped', async () => {
  await using folder = await LogFolder.make()
  const builder = builderFor(manifest)
  const transactions = Array.from({ length: 60 }, (_, i) => builder.next([40_000], { fill: i }))
  {
    await using log = await folder.open({ segmentBytes: 600_000, tailBytes: 0 })
    for (const transaction of transactions.slice(0, 50)) await log.append(wholeAppend([transaction]))
    const [begun] = cutAppends([transactions[50]], new Set([1]))
    await log.append(begun)
    await log.rollback()
    for (const transaction of transactions.slice(50, 55)) await log.append(wholeAppend([transaction]))
    for (const after of transactions.slice(0, 55)) assert.equal((await findPosition(log, after)).found, 'place')
  }
  await using log = await folder.open({ segmentBytes: 600_000, tailBytes: 0 })
  for (const transaction of transactions.slice(55)) await log.append(wholeAppend([transaction]))
  assert.ok(log.segments.length > 3)
  assert.equal(log.segments[0].index, undefined)
  for (const [i, after] of transactions.entries()) {
    const found = await findPosition(log, after)
    assert.ok(found.found === 'place')
    if (i % 10 === 0) assert.ok((await readAll(log, found.place)).equals(from(transactions, i + 1)))
  }
  assert.ok(log.segments[0].index!.length > 1)
})

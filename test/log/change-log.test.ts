import assert from 'node:assert/strict'
import { open, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { describe, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import fc from 'fast-check'
import { BeyondError } from '../../src/errors.ts'
import type { ChangeLog } from '../../src/log/change-log.ts'
import { LogCursor } from '../../src/log/log-cursor.ts'
import { beginningOf, endOf, findPosition } from '../../src/log/log-search.ts'
import { genesisPosition, genesisReached } from '../../src/log/manifest.ts'
import { SEGMENT_HEADER_BYTES } from '../../src/log/segment.ts'
import { toLsn } from '../../src/wal/lsn.ts'
import { builderFor, cutAppends, FINGERPRINT, TransactionBuilder, wholeAppend, type TestTransaction } from '../support/log-frames.ts'
import { LogFolder, manifest, readAll } from './log-folder.ts'

const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000_000)
const code = (expected: string) => (error: unknown) => error instanceof BeyondError && error.code === expected

const concat = (transactions: readonly TestTransaction[]): Buffer => Buffer.concat(transactions.map(({ bytes }) => bytes))

async function append(log: ChangeLog, transactions: readonly TestTransaction[]): Promise<void> {
  await Promise.all(transactions.map((transaction) => log.append(wholeAppend([transaction]))))
}

/** Evenly spread, which fc.double is not. */
const fraction = fc.nat(999_999).map((n) => n / 1e6)

/** Transactions by the sizes of their changes. */
const streams = fc.record({
  sizes: fc.array(fc.array(fc.oneof(fc.nat(60), fc.nat(3000)), { minLength: 1, maxLength: 8 }), { minLength: 1, maxLength: 25 }),
  cuts: fc.array(fc.nat(150), { maxLength: 25 }).map((cuts) => new Set(cuts)),
  segmentBytes: fc.constantFrom(1, 500, 4_000, 1_000_000),
  tailBytes: fc.constantFrom(0, 20_000, 10_000_000),
})

describe(`any stream of transactions (seed ${seed})`, () => {
  test('is read back from every position, live and after a reopen, from memory and from files', async () => {
    await fc.assert(
      fc.asyncProperty(streams, fc.boolean(), async ({ sizes, cuts, segmentBytes, tailBytes }, marks) => {
        await using folder = await LogFolder.make()
        const builder = builderFor(manifest)
        const transactions = sizes.map((changes, i) => builder.next(changes, { fill: i }))
        const all = concat(transactions)
        const log = await folder.open({ segmentBytes, tailBytes })
        await using live = new LogCursor(log, beginningOf(log))
        const followed: Buffer[] = []
        for (const [i, what] of cutAppends(transactions, cuts).entries()) {
          const appended = log.append(what)
          // Readers run beside the writer and see whole transactions only.
          const piece = await live.read()
          if (piece) followed.push(piece.bytes)
          if (i % 3 === 0) await appended
          if (marks && i % 4 === 0 && !what.endsInside) await appended.then(() => log.mark(toLsn(log.reached + 1n)))
          if (i === 4) await appended
        }
        await Promise.all([log.append(wholeAppend([builder.next([1])])), log.append(wholeAppend([builder.next([1])]))])
        await log[Symbol.asyncDispose]()
        for (let piece = await live.read(); piece; piece = await live.read()) followed.push(piece.bytes)
        const read = Buffer.concat(followed)
        assert.ok(read.subarray(0, all.length).equals(all))

        await using again = await folder.open({ segmentBytes, tailBytes })
        assert.equal(again.reached, log.reached)
        for (const reader of [log, again]) {
          assert.equal(reader.head.lsn, builder.lsn)
          let offset = 0
          for (const after of [genesisPosition(manifest), ...transactions]) {
            if ('bytes' in after) offset += after.bytes.length
            const found = await findPosition(reader, after)
            assert.ok(found.found === 'place', `position ${after.lsn}`)
            assert.equal(found.place.after.lsn, after.lsn)
            assert.ok((await readAll(reader, found.place)).equals(read.subarray(offset)))
          }
        }
      }),
      { seed, numRuns: 40 },
    )
  })

  test('survives a cut of its last segment at any byte, and a flipped bit in it', async () => {
    await fc.assert(
      fc.asyncProperty(streams, fraction, fc.boolean(), async ({ sizes, cuts, segmentBytes }, where, flip) => {
        await using folder = await LogFolder.make()
        const builder = builderFor(manifest)
        const transactions = sizes.map((changes, i) => builder.next(changes, { fill: i }))
        {
          await using log = await folder.open({ segmentBytes })
          for (const what of cutAppends(transactions, cuts)) await log.append(what)
        }
        const path = join(folder.path, (await segmentNames(folder)).at(-1)!)
        const { size } = await stat(path)
        const at = SEGMENT_HEADER_BYTES + Math.floor((size - SEGMENT_HEADER_BYTES) * where)
        if (!flip) await truncate(path, at)
        else if (at < size) await flipBit(path, at)
        await using log = await folder.open({ segmentBytes })
        const kept = transactions.filter(({ lsn }) => lsn <= log.head.lsn)
        assert.deepEqual(log.head.chain, kept.at(-1)?.chain ?? genesisPosition(manifest).chain)
        assert.equal(log.reached, kept.at(-1)?.endLsn ?? genesisReached(manifest))
        assert.ok((await readAll(log, beginningOf(log))).equals(concat(kept)))
        // What was lost comes again.
        for (const what of cutAppends(transactions.slice(kept.length), new Set([1, 5]))) await log.append(what)
        assert.ok((await readAll(log, beginningOf(log))).equals(concat(transactions)))
        for (const after of transactions) assert.equal((await findPosition(log, after)).found, 'place')
      }),
      { seed, numRuns: 60 },
    )
  })

  test('a flipped bit in an old segment is LOG_CORRUPT and nothing wrong comes before it', async () => {
    await fc.assert(
      fc.asyncProperty(streams, fraction, fraction, fc.boolean(), async ({ sizes, cuts }, which, where, single) => {
        await using folder = await LogFolder.make()
        const builder = builderFor(manifest)
        const transactions = [...sizes, [300_000, 20], [100]].map((changes, i) => builder.next(changes, { fill: i }))
        {
          await using log = await folder.open({ segmentBytes: 2_000 })
          for (const what of single ? transactions.map((transaction) => wholeAppend([transaction])) : cutAppends(transactions, cuts)) await log.append(what)
          await append(log, [builder.next([1])])
        }
        const names = (await segmentNames(folder)).slice(0, -1)
        const path = join(folder.path, names[Math.floor(which * names.length)])
        const { size } = await stat(path)
        await flipBit(path, SEGMENT_HEADER_BYTES + Math.floor((size - SEGMENT_HEADER_BYTES) * where))
        await using log = await folder.open({ segmentBytes: 2_000 })
        await using cursor = new LogCursor(log, beginningOf(log))
        const pieces: Buffer[] = []
        await assert.rejects(async () => {
          for (let piece = await cursor.read(); piece; piece = await cursor.read()) pieces.push(piece.bytes)
        }, code('LOG_CORRUPT'))
        const read = Buffer.concat(pieces)
        assert.ok(concat(transactions).subarray(0, read.length).equals(read))
        // A search never takes damage for another history.
        for (const after of transactions) {
          const verdict = await findPosition(log, after).then(({ found }) => found, (error: BeyondError) => error.code)
          assert.ok(verdict === 'place' || verdict === 'LOG_CORRUPT', verdict)
        }
      }),
      { seed, numRuns: 40 },
    )
  })
})

async function segmentNames(folder: LogFolder): Promise<string[]> {
  return (await readdir(folder.path)).filter((name) => name.endsWith('.log')).sort()
}

async function flipBit(path: string, at: number): Promise<void> {
  await using file = await open(path, 'r+')
  const byte = Buffer.alloc(1)
  await file.read(byte, 0, 1, at)
  byte[0] ^= 0x10
  await file.write(byte, 0, 1, at)
}

test('a new log begins at its genesis', async () => {
  await using folder = await LogFolder.make()
  await using log = await folder.open()
  assert.equal(log.head.lsn, manifest.genesis)
  assert.equal(log.reached, toLsn(manifest.genesis + 1n))
  assert.deepEqual(log.oldest, genesisPosition(manifest))
  assert.deepEqual(await readdir(folder.path), [`${'1001'.padStart(16, '0')}.log`, 'schemas'])
})

test('an open transaction is not seen, not found again after a reopen, and does not count as reached', async () => {
  await using folder = await LogFolder.make()
  const builder = builderFor(manifest)
  const [first, long] = [builder.next([10]), builder.next([10, 20, 30])]
  {
    await using log = await folder.open()
    await append(log, [first])
    const end = log.end
    const [begun] = cutAppends([long], new Set([1]))
    await log.append(begun)
    await log.mark(toLsn(0x99999n))
    assert.equal(log.end, end)
    assert.equal(log.reached, first.endLsn)
    assert.equal(log.changes, 1n)
  }
  await using log = await folder.open()
  assert.equal(log.head.lsn, first.lsn)
  assert.equal(log.reached, first.endLsn)
  await append(log, [long])
  assert.equal(log.head.lsn, long.lsn)
})

test('a transaction that ends in the same block as a longer one begins waits for that one', async () => {
  await using folder = await LogFolder.make()
  const builder = builderFor(manifest)
  const [first, long] = [builder.next([10]), builder.next([10, 20])]
  const split = long.frames.slice(0, 2)
  const mixed = { ...wholeAppend([first]), frames: Buffer.concat([first.bytes, ...split]), endsInside: true }
  const rest = { ...wholeAppend([long]), frames: Buffer.concat(long.frames.slice(2)), beginsInside: true }
  {
    await using log = await folder.open()
    await log.append(mixed)
    // It would be cut off again by a crash: it must not be confirmed.
    assert.equal(log.reached, genesisReached(manifest))
    assert.equal(log.head.lsn, manifest.genesis)
  }
  await using log = await folder.open()
  assert.equal(log.head.lsn, manifest.genesis)
  await log.append(mixed)
  await log.append(rest)
  assert.equal(log.head.lsn, long.lsn)
  assert.equal(log.reached, long.endLsn)
  for (const after of [first, long]) assert.equal((await findPosition(log, after)).found, 'place')
  assert.ok((await readAll(log, beginningOf(log))).equals(concat([first, long])))
})

test('marks move what was reached, over a roll and a reopen; nothing else does', async () => {
  await using folder = await LogFolder.make()
  const builder = builderFor(manifest)
  const first = builder.next([100])
  {
    await using log = await folder.open({ segmentBytes: 1 })
    await append(log, [first])
    await log.mark(toLsn(0x5000n))
    await log.mark(toLsn(0x4000n))
    assert.equal(log.reached, 0x5000n)
    assert.equal(log.head.lsn, first.lsn)
    // Rolls, and then fails: the new segment stays empty.
    builder.lsn = toLsn(0x5000n)
    const [begun] = cutAppends([builder.next([10, 10])], new Set([0]))
    await log.append(begun)
    assert.equal(log.segments.length, 3)
  }
  await using log = await folder.open({ segmentBytes: 1 })
  assert.equal(log.reached, 0x5000n)
  assert.equal(log.head.lsn, first.lsn)
})

test('segments of an idle database have names of their own, can be removed, and no reader minds', async () => {
  await using folder = await LogFolder.make()
  const builder = builderFor(manifest)
  await using log = await folder.open({ segmentBytes: 400, tailBytes: 0 })
  const first = builder.next([100])
  await append(log, [first])
  await using behind = new LogCursor(log, endOf(log))
  await using fresh = new LogCursor(log, beginningOf(log))
  for (let i = 1n; i <= 40n; i++) await log.mark(toLsn(0x2000n + i))
  assert.ok(log.segments.length > 5)
  const policy = { maxBytes: 1e9, maxAgeMs: 1e12, maxConsumerBytes: 1e9 }
  const found = await findPosition(log, first)
  assert.ok(found.found === 'place')
  // The one with the transaction stays, and so do those after it.
  assert.equal(await log.retain(policy, [], 0n), 0)
  assert.ok((await fresh.read())?.bytes.equals(first.bytes))
  assert.equal(await log.retain({ ...policy, maxBytes: 600 }, [], 0n), 0)
  const next = builder.next([5], { gap: 0x10000n })
  await append(log, [next])
  assert.ok((await log.retain({ ...policy, maxBytes: 600 }, [], 0n)) > 4)
  assert.ok((await behind.read())?.bytes.equals(next.bytes))
  assert.ok((await fresh.read())?.bytes.equals(next.bytes))
  assert.equal(await behind.read(), undefined)
  assert.equal((await findPosition(log, first)).found, 'place')
  await using stale = new LogCursor(log, { offset: 0, skip: 0, after: genesisPosition(manifest) })
  await assert.rejects(stale.read(), code('POSITION_TOO_OLD'))
})

test('segments of marks only at the beginning go by themselves', async () => {
  await using folder = await LogFolder.make()
  await using log = await folder.open({ segmentBytes: 400 })
  for (let i = 1n; i <= 40n; i++) await log.mark(toLsn(0x2000n + i))
  assert.ok((await log.retain({ maxBytes: 1e9, maxAgeMs: 1e12, maxConsumerBytes: 1e9 }, [manifest.genesis], 0n)) > 5)
  assert.equal(log.segments.length, 1)
  assert.deepEqual(log.oldest, genesisPosition(manifest))
})

test('appends that do not follow are refused, and harm nothing', async () => {
  await using folder = await LogFolder.make()
  const builder = builderFor(manifest)
  const [first, second] = [builder.next([10]), builder.next([10])]
  await using log = await folder.open()
  await append(log, [second])
  await assert.rejects(log.append(wholeAppend([first])), code('INTERNAL'))
  await assert.rejects(log.append(wholeAppend([second])), code('INTERNAL'))
  await assert.rejects(log.append({ ...wholeAppend([builder.next([1])]), beginsInside: true }), code('INTERNAL'))
  const third = builder.next([3])
  await append(log, [third])
  assert.equal(log.head.lsn, third.lsn)
})

test('rollback forgets an open transaction, also while appends are on their way', async () => {
  await using folder = await LogFolder.make()
  const builder = builderFor(manifest)
  const transactions = Array.from({ length: 8 }, (_, i) => builder.next([10, 20, 30], { fill: i }))
  await using log = await folder.open({ segmentBytes: 300 })
  for (let round = 0; round < 8; round++) {
    const known = transactions.filter(({ lsn }) => lsn <= log.head.lsn).length
    // One more whole transaction than before, then some of the next one.
    const appends = cutAppends(transactions.slice(known), new Set([4, 5 + (round % 3), 8])).slice(0, 2 + (round % 2))
    const sent = appends.map((what) => log.append(what))
    if (round % 2 === 0) await sent[0]
    await log.rollback()
    assert.ok((await Promise.allSettled(sent)).every(({ status }) => status === 'fulfilled'))
    const kept = transactions.filter(({ lsn }) => lsn <= log.head.lsn)
    assert.equal(kept.length, Math.min(transactions.length, known + 1))
    assert.ok((await readAll(log, beginningOf(log))).equals(concat(kept)))
    assert.equal((await stat(log.segments.at(-1)!.path)).size, log.segments.at(-1)!.size)
    await using again = await folder.open()
    assert.equal(again.head.lsn, log.head.lsn)
    assert.equal(again.end, log.end)
  }
  assert.equal(log.head.lsn, transactions.at(-1)!.lsn)
})

test('what stood behind a torn place is gone for good', async () => {
  await using folder = await LogFolder.make()
  const builder = builderFor(manifest)
  const [first, second, third] = [builder.next([50]), builder.next([50]), builder.next([50])]
  {
    await using log = await folder.open()
    await append(log, [first, second, third])
  }
  const path = join(folder.path, (await segmentNames(folder))[0])
  await flipBit(path, (await readFile(path)).lastIndexOf(second.bytes) + 10)
  const other = new TransactionBuilder(first).next([50], { fill: 9 })
  {
    await using log = await folder.open()
    assert.equal(log.head.lsn, first.lsn)
    // As long as the block that was torn: the third one would fit right behind it.
    await append(log, [other])
  }
  await using log = await folder.open()
  assert.deepEqual(log.head.chain, other.chain)
})

test('appends while a rollback runs are refused', async () => {
  await using folder = await LogFolder.make()
  const builder = builderFor(manifest)
  await using log = await folder.open()
  const rolling = log.rollback()
  await Promise.resolve()
  await assert.rejects(log.append(wholeAppend([builder.next([1])])), code('INTERNAL'))
  await rolling
  builder.chain = genesisPosition(manifest).chain
  await append(log, [builder.next([1])])
})

test('after it was closed appends are refused, and closing again is harmless', async () => {
  await using folder = await LogFolder.make()
  const builder = builderFor(manifest)
  const log = await folder.open()
  const first = log.append(wholeAppend([builder.next([1])]))
  await log[Symbol.asyncDispose]()
  await first
  await log[Symbol.asyncDispose]()
  await assert.rejects(log.append(wholeAppend([builder.next([1])])), code('SHUTDOWN'))
})

test('an append resolves only when the listener may read it, and a listener that throws stops nobody', async () => {
  await using folder = await LogFolder.make()
  const builder = builderFor(manifest)
  await using log = await folder.open()
  let told = 0
  log.onAdvance(() => {
    throw new Error('a fault of a reader')
  })
  const stop = log.onAdvance(() => told++)
  await append(log, [builder.next([1]), builder.next([2])])
  assert.equal(told, 1)
  stop()
  await append(log, [builder.next([1])])
  assert.equal(told, 1)
})

test('schemas are there before the block that needs them, and after a reopen', async () => {
  await using folder = await LogFolder.make()
  const builder = builderFor(manifest)
  const schemas = [{ fingerprint: FINGERPRINT, schema: '{"type":"record","name":"A","fields":[]}' }]
  {
    await using log = await folder.open()
    await Promise.all([
      log.append({ ...wholeAppend([builder.next([1])]), schemas }),
      log.append({ ...wholeAppend([builder.next([1])]), schemas }),
    ])
    await Promise.all([log.schemas.add(5n, '"int"'), log.schemas.add(5n, '"int"')])
  }
  await using log = await folder.open()
  assert.equal(log.schemas.get(FINGERPRINT), schemas[0].schema)
  assert.ok(log.schemas.has(5n))
  assert.throws(() => log.schemas.get(6n), code('LOG_CORRUPT'))
  await writeFile(join(folder.path, 'schemas', `${'7'.padStart(16, '0')}.avsc`), '{"type":')
  await assert.rejects(folder.open(), code('LOG_CORRUPT'))
})

test('a large block comes in pieces, and from its middle', async () => {
  await using folder = await LogFolder.make()
  const builder = builderFor(manifest)
  const [small, large, after] = [builder.next([10]), builder.next([5_000_000, 100, 300_000]), builder.next([20])]
  await using log = await folder.open({ tailBytes: 1024 * 1024 })
  await log.append(wholeAppend([small, large, after]))
  await using cursor = new LogCursor(log, beginningOf(log))
  const pieces = []
  for (let piece = await cursor.read(); piece; piece = await cursor.read()) pieces.push(piece)
  assert.ok(pieces.length > 15)
  assert.ok(pieces.every(({ bytes }) => bytes.length <= 256 * 1024))
  assert.deepEqual(pieces.map(({ position }) => position?.lsn), [...pieces.slice(1).map(() => undefined), after.lsn])
  assert.ok(Buffer.concat(pieces.map(({ bytes }) => bytes)).equals(concat([small, large, after])))
  const found = await findPosition(log, large)
  assert.ok(found.found === 'place')
  assert.ok((await readAll(log, found.place)).equals(after.bytes))
})

test('writer, retention, readers and searches at once: nobody gets anything but history', async () => {
  await using folder = await LogFolder.make()
  await using log = await folder.open({ segmentBytes: 3_000, tailBytes: 4_000 })
  const builder = builderFor(manifest)
  const transactions = Array.from({ length: 400 }, (_, i) => builder.next([i % 200, 50], { fill: i }))
  const all = concat(transactions)
  const ends = new Map<bigint, number>([[manifest.genesis, 0]])
  transactions.reduce((sum, { lsn, bytes }) => (ends.set(lsn, sum + bytes.length), sum + bytes.length), 0)
  let writing = true
  const write = async () => {
    let appended: Promise<void> | undefined
    for (const [i, what] of cutAppends(transactions, new Set(Array.from({ length: 1600 }, (_, n) => n).filter((n) => n % 7 < 2))).entries()) {
      appended = log.append(what)
      if (i % 5 === 0) await appended
      if (i % 3 === 0 && !what.endsInside) void log.mark(toLsn(log.reached + 1n))
      if (i % 20 === 0) await log.retain({ maxBytes: 15_000, maxAgeMs: 1e12, maxConsumerBytes: 1e9 }, [], 0n)
    }
    await appended
    writing = false
  }
  let read = 0
  const follow = async (number: number) => {
    while (writing) {
      await setImmediate()
      const known = transactions.filter(({ lsn }) => lsn <= log.head.lsn)
      const after = known[Math.max(0, known.length - 1 - ((number * 13 + read) % 60))] ?? genesisPosition(manifest)
      const found = await findPosition(log, after)
      if (found.found === 'too-old') continue
      assert.ok(found.found === 'place', found.found)
      await using cursor = new LogCursor(log, found.place)
      let offset = ends.get(after.lsn)!
      try {
        for (let i = 0; i < 50 && writing; i++) {
          const piece = await cursor.read()
          if (!piece) await setImmediate()
          else {
            assert.ok(piece.bytes.equals(all.subarray(offset, offset + piece.bytes.length)))
            offset += piece.bytes.length
            read++
          }
        }
      } catch (error) {
        assert.ok(code('POSITION_TOO_OLD')(error), String(error))
      }
    }
  }
  await Promise.all([write(), ...[0, 1, 2, 3].map(follow)])
  assert.equal(log.head.lsn, builder.lsn)
  assert.ok(read > 0)
  assert.ok(log.oldest.lsn > manifest.genesis)
})

test('a segment that is gone or cut short is damage, not the end of it', async () => {
  const builder = builderFor(manifest)
  const transactions = Array.from({ length: 12 }, (_, i) => builder.next([200], { fill: i }))
  for (const harm of ['removed', 'shortened'] as const) {
    await using folder = await LogFolder.make()
    {
      await using log = await folder.open({ segmentBytes: 700 })
      for (const transaction of transactions) await append(log, [transaction])
    }
    const [first, second] = await segmentNames(folder)
    if (harm === 'removed') await rm(join(folder.path, second))
    else {
      // By exactly one block.
      const bytes = await readFile(join(folder.path, first))
      await truncate(join(folder.path, first), bytes.lastIndexOf('BLK1'))
    }
    await using log = await folder.open()
    await assert.rejects(readAll(log, beginningOf(log)), code('LOG_CORRUPT'))
  }
})

test('files of another history are refused', async () => {
  await using folder = await LogFolder.make()
  {
    await using log = await folder.open()
    await append(log, [builderFor(manifest).next([1])])
  }
  await assert.rejects(folder.open({ manifest: { ...manifest, history: 'ffffffff-0102-4304-8506-0708090a0b0c' } }), code('LOG_CORRUPT'))
  const name = (await segmentNames(folder))[0]
  await truncate(join(folder.path, name), SEGMENT_HEADER_BYTES - 1)
  await assert.rejects(folder.open(), code('LOG_CORRUPT'))
})

test('what a crash left beside is cleared away', async () => {
  await using folder = await LogFolder.make()
  await writeFile(join(folder.path, '0000000000002000.log.new'), 'half')
  await using log = await folder.open()
  assert.ok(!(await readdir(folder.path)).some((name) => name.endsWith('.new')))
  assert.equal(basename(log.segments[0].path), '0000000000001001.log')
})

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { envelopes, type Operation } from '../../src/transport/envelopes.ts'
import { encodeFrame, FrameReader, frameType } from '../../src/transport/frame.ts'
import { matchesPattern, SubscriptionFilter } from '../../src/transport/subscription-filter.ts'
import { messageFrame, TestHistory, truncateFrame } from '../support/frames.ts'
import { testSeed } from '../support/random.ts'

const TABLES = ['orders', 'items', 'people'] as const
const relation = (fingerprint: bigint) => ({ schema: 'public', table: TABLES[Number(fingerprint)] })

/** What the filter looks at: fingerprint and operation; the rest is any bytes. */
function change(table: number, operation: number, size: number): Buffer {
  const body = Buffer.alloc(11 + size, 0x55)
  body.writeUInt16BE(0xc301, 0)
  body.writeBigUInt64LE(BigInt(table), 2)
  body[10] = operation * 2
  return encodeFrame(frameType.change, body)
}

type Item = { frame: Buffer; operation: Operation; tables: string[] }
const operations = ['insert', 'update', 'delete'] as const
const item: fc.Arbitrary<Item> = fc.oneof(
  { weight: 6, arbitrary: fc.tuple(fc.nat(2), fc.nat(2), fc.nat(60)).map(([table, op, size]) => ({ frame: change(table, op, size), operation: operations[op], tables: [TABLES[table]] })) },
  fc.subarray([...TABLES], { minLength: 1 }).map((tables) => ({ frame: truncateFrame(tables), operation: 'truncate' as const, tables })),
  fc.string({ maxLength: 40 }).map((text) => ({ frame: messageFrame('p', text), operation: 'message' as const, tables: [] })),
)
const request = fc.record({
  tables: fc.subarray(['public.orders', 'public.i*', '*.?eople', 'other.*']),
  operations: fc.subarray<Operation>(['insert', 'update', 'delete', 'truncate', 'message']),
})

/** Every change that is sent, with the index that a subscriber counts for it. */
function indexed(bytes: Buffer): { index: bigint; frame: string }[] {
  const changes: { index: bigint; frame: string }[] = []
  let index = 0n
  new FrameReader(1 << 20).push(bytes, ({ type, body }) => {
    if (type === frameType.begin) index = 0n
    else if (type === frameType.skip) index += envelopes.skip.decode(body).changes
    else if (type === frameType.commit) changes.push({ index, frame: 'commit' })
    else changes.push({ index: ++index, frame: body.toString('hex') })
  })
  return changes
}

describe(`the filter (seed ${testSeed})`, () => {
  it('keeps what was asked for, counts the rest, and does so however the bytes are cut', () => {
    fc.assert(
      fc.property(fc.array(fc.array(item, { maxLength: 8 }), { maxLength: 6 }), request, fc.array(fc.nat(4_000)), (transactions, { tables, operations }, places) => {
        const history = new TestHistory()
        const whole = transactions.map((items, i) => ({ items, ...history.transaction(BigInt(i + 1) * 100n, items.map(({ frame }) => frame)) }))
        const bytes = Buffer.concat(whole.flatMap(({ begin, frames, commit }) => [begin, ...frames, commit]))

        const wanted = ({ operation, tables: of }: Item) =>
          (operations.length === 0 || operations.includes(operation)) &&
          (operation === 'message' || tables.length === 0 || of.some((table) => tables.some((pattern) => matchesPattern(pattern, `public.${table}`))))
        const expected: Buffer[] = []
        for (const { items, begin, commit } of whole) {
          if (!items.some(wanted)) continue
          expected.push(begin)
          let skipped = 0n
          const flush = () => {
            if (skipped > 0n) expected.push(encodeFrame(frameType.skip, envelopes.skip.encode({ changes: skipped })))
            skipped = 0n
          }
          for (const one of items) {
            if (wanted(one)) {
              flush()
              expected.push(one.frame)
            } else skipped++
          }
          flush()
          expected.push(commit)
        }

        const filter = new SubscriptionFilter({ tables, operations, relation })
        const ends = [...new Set(places.map((place) => place % (bytes.length + 1))), bytes.length].sort((a, b) => a - b)
        const out = ends.flatMap((end, i) => filter.push(bytes.subarray(i === 0 ? 0 : ends[i - 1], end)))
        assert.deepEqual(Buffer.concat(out), Buffer.concat(expected))

        // Counts: what is sent and what is skipped make up what the Commit says.
        let index = 0n
        new FrameReader(1 << 20).push(Buffer.concat(out), ({ type, body }) => {
          if (type === frameType.begin) index = 0n
          else if (type === frameType.commit) assert.equal(envelopes.commit.decode(body).changes, index)
          else index += type === frameType.skip ? envelopes.skip.decode(body).changes : 1n
        })
        // Silence may be broken anywhere: the same changes, and the same counts, in more Skip frames.
        const talkative = new SubscriptionFilter({ tables, operations, relation })
        const broken = ends.flatMap((end, i) => {
          const passed = talkative.push(bytes.subarray(i === 0 ? 0 : ends[i - 1], end))
          const skip = talkative.takeSkip()
          return skip ? [...passed, skip] : passed
        })
        assert.deepEqual(indexed(Buffer.concat(broken)), indexed(Buffer.concat(out)))
      }),
      { seed: testSeed, numRuns: 300 },
    )
  })

  it('tells whether anything of a transaction has gone out', () => {
    const history = new TestHistory()
    const { begin, commit } = history.transaction(100n, [change(0, 0, 10), change(1, 0, 10)])
    const filter = new SubscriptionFilter({ tables: ['public.items'], operations: [], relation })
    filter.push(begin)
    filter.push(change(0, 0, 10))
    assert.equal(filter.holdsTransaction, true)
    assert.equal(filter.takeSkip(), undefined, 'a Skip can not come before its Begin')
    filter.push(change(1, 0, 10))
    assert.equal(filter.holdsTransaction, false)
    filter.push(change(0, 0, 10))
    assert.ok(filter.takeSkip())
    assert.equal(filter.takeSkip(), undefined)
    filter.push(commit)
    assert.equal(filter.holdsTransaction, false)
  })

  it('is not needed where nothing is asked for', () => {
    assert.equal(SubscriptionFilter.needed({ tables: [], operations: [] }), false)
    assert.equal(SubscriptionFilter.needed({ tables: ['*'], operations: [] }), true)
  })

  for (const pattern of ['', 'x'.repeat(257), 'ä'.repeat(129)])
    it(`refuses a pattern of ${Buffer.byteLength(pattern)} bytes`, () =>
      assert.throws(() => new SubscriptionFilter({ tables: [pattern], operations: [], relation }), { code: 'BAD_REQUEST' }))
})

describe('a pattern', () => {
  const table: [string, string, boolean][] = [
    ['public.orders', 'public.orders', true],
    ['public.orders', 'public.order', false],
    ['public.*', 'public.', true],
    ['public.*', 'publicx', false],
    ['*', 'a.b', true],
    ['*.*', 'a.b', true],
    ['?.?', 'a.b', true],
    ['?.?', 'a.bc', false],
    ['*a*b*', 'xxaxxbxx', true],
    ['*a*b*', 'xxbxxaxx', false],
    ['a*c', 'abcbc', true],
    ['a.c', 'abc', false],
    ['[a].(b)+', '[a].(b)+', true],
    ['**', '', true],
  ]
  for (const [pattern, text, matches] of table) it(`${pattern} ${matches ? 'matches' : 'does not match'} ${text}`, () => assert.equal(matchesPattern(pattern, text), matches))

  it('matches as the obvious regular expression does', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', '.', '*', '?'), maxLength: 12 })
    const texts = fc.string({ unit: fc.constantFrom('a', 'b', '.'), maxLength: 12 })
    fc.assert(
      fc.property(letters, texts, (pattern, text) => {
        const expression = new RegExp(`^${pattern.replaceAll('.', String.raw`\.`).replaceAll('*', '.*').replaceAll('?', '.')}$`, 's')
        assert.equal(matchesPattern(pattern, text), expression.test(text))
      }),
      { seed: testSeed, numRuns: 2_000 },
    )
  })

  it('of the worst kind takes no time', () => {
    const began = performance.now()
    for (let i = 0; i < 100; i++) assert.equal(matchesPattern(`${'*a'.repeat(120)}b`, 'a'.repeat(126)), false)
    assert.ok(performance.now() - began < 2_000)
  })
})

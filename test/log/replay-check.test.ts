import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import type { Append } from '../../src/log/change-log.ts'
import { ReplayCheck, type Encoded } from '../../src/log/replay-check.ts'
import { toLsn } from '../../src/wal/lsn.ts'
import { builderFor, FINGERPRINT, type TestTransaction } from '../support/log-frames.ts'
import { testSeed } from '../support/random.ts'
import { manifest } from './log-folder.ts'

/** What the encoder gives for these transactions, cut into batches after the frames whose running numbers are in `cuts`. */
function batches(transactions: readonly TestTransaction[], cuts: ReadonlySet<number>): Encoded[] {
  const out: Encoded[] = []
  let bytes: Buffer[] = []
  let done: Encoded['transactions'][number][] = []
  let size = 0
  let start = 0
  let number = 0
  const take = (open: boolean) => {
    if (size > 0) out.push({ bytes: Buffer.concat(bytes), transactions: done, open, fingerprints: [FINGERPRINT], changes: 0 })
    bytes = []
    done = []
    size = start = 0
  }
  for (const { frames, lsn, endLsn, time, chain } of transactions) {
    start = size
    for (const [i, frame] of frames.entries()) {
      bytes.push(frame)
      size += frame.length
      const last = i === frames.length - 1
      if (last) done.push({ lsn, endLsn, time, chain, changes: frames.length - 2, offset: start, length: size - start })
      if (cuts.has(number++)) take(!last)
    }
  }
  take(false)
  return out
}

const schemas: Append['schemas'] = [{ fingerprint: FINGERPRINT, schema: '{}' }]
const joined = (appends: readonly Append[]) => Buffer.concat(appends.map(({ frames }) => frames))
const headOf = ({ lsn, endLsn, time, chain }: TestTransaction) => ({ lsn, endLsn, time, chain })

function three(): [TestTransaction, TestTransaction, TestTransaction] {
  const builder = builderFor(manifest)
  return [builder.next([10, 20]), builder.next([30]), builder.next([5, 5, 5])]
}

describe(`what comes once more (seed ${testSeed})`, () => {
  it('is left out, and everything after it kept, however it is cut', () => {
    const all = three()
    const [first] = all
    fc.assert(
      fc.property(fc.array(fc.nat(12)), fc.boolean(), (cuts, replays) => {
        const check = new ReplayCheck({ head: headOf(first), reached: first.endLsn }, replays)
        const parts = batches(replays ? all : all.slice(1), new Set(cuts))
        const appends = parts.flatMap((batch, i) => check.admit(batch, i === 0 ? schemas : []))
        assert.deepEqual(joined(appends), Buffer.concat(all.slice(1).map(({ bytes }) => bytes)))
        // As the log demands it: whole transactions and open ones in appends of their own.
        let inside = false
        for (const append of appends) {
          assert.equal(append.beginsInside, inside)
          assert.equal(append.last === undefined, append.transactions === 0)
          assert.equal(append.endsInside, append.last === undefined)
          inside = append.endsInside
        }
        assert.equal(inside, false)
        assert.deepEqual(appends.flatMap((append) => append.schemas), schemas)
        assert.equal(appends.reduce((sum, { transactions }) => sum + transactions, 0), 2)
      }),
      { seed: testSeed, numRuns: 200 },
    )
  })

  it('has to be the same transaction', () => {
    const [first, second] = three()
    const other = builderFor(manifest).next([10, 20], { fill: 9 })
    const check = () => new ReplayCheck({ head: headOf(first), reached: first.endLsn }, true)
    for (const instead of [other, second]) assert.throws(() => batches([instead], new Set()).map((batch) => check().admit(batch, [])), { code: 'HISTORY_DIVERGED' })
  })

  it('has to come before Postgres is done with what is there', () => {
    const [first] = three()
    const check = new ReplayCheck({ head: headOf(first), reached: first.endLsn }, true)
    check.idle(toLsn(first.lsn - 10n))
    check.idle(first.lsn)
    assert.throws(() => check.idle(toLsn(first.lsn + 1n)), { code: 'HISTORY_DIVERGED' })
    batches([first], new Set()).map((batch) => check.admit(batch, []))
    check.idle(toLsn(first.lsn + 1n))
  })
})

describe('what is new', () => {
  it('can not lie where the log has read already', () => {
    const [first, second] = three()
    const admit = (reached: bigint) => batches([second], new Set()).map((batch) => new ReplayCheck({ head: headOf(first), reached: toLsn(reached) }, false).admit(batch, []))
    assert.equal(admit(second.lsn).length, 1)
    assert.throws(() => admit(second.lsn + 1n), { code: 'HISTORY_DIVERGED' })
    const backwards = () => batches([first], new Set()).map((batch) => new ReplayCheck({ head: headOf(second), reached: toLsn(0n) }, false).admit(batch, []))
    assert.throws(backwards, { code: 'HISTORY_DIVERGED' })
  })
})

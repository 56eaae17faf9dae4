/** The decisions before Postgres starts, as tables and as properties over small worlds. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Claim, planRecovery, type RecoveryInput, type RecoveryPlan, type SealedSink, type VolumeFacts } from '../../src/manage/recovery-plan.ts'
import { type Member, sealQuorum, synchronousStandbyNames, duplicates, writeQuorum } from '../../src/manage/sink-quorum.ts'
import { toLsn, type Lsn } from '../../src/wal/lsn.ts'
import { segmentFileName } from '../../src/wal/segment-name.ts'
import { type HistoryEntry, type Timeline, toTimeline } from '../../src/wal/timeline.ts'

const MB = 1024 * 1024
const SEGMENT = MB
const tli = (value: number): Timeline => toTimeline(value)!
/** Megabytes and bytes: segments are of one megabyte. */
const at = (megabytes: number, bytes = 0): Lsn => toLsn(BigInt(megabytes * MB + bytes))
const claimOf = (generation: number, by = 'us'): Claim => ({ generation: BigInt(generation), by })
const member = (number: number): Member => ({ url: `https://sink${number}`, name: `sink${number}`, sinkId: `id${number}` })

const volume: VolumeFacts = {
  systemId: 7n,
  segmentBytes: SEGMENT,
  timeline: tli(1),
  history: [],
  redo: at(10, 100),
  walEnd: at(12, 500),
  claim: claimOf(1),
  proven: tli(1),
}

/** Holds timeline 1 from `from` to `to` megabytes, and ends there plus `bytes`. */
function sink(number: number, { from = 8, to = 14, bytes = 200, timeline = 1, system = 7n }: { from?: number; to?: number; bytes?: number; timeline?: number; system?: bigint } = {}): SealedSink {
  const end = { timeline: tli(timeline), lsn: at(to, bytes), lastRecord: at(to, bytes - 50) }
  const segments = Array.from({ length: to - from + 1 }, (_value, index) => {
    const number_ = from + index
    return { name: segmentFileName({ timeline: tli(timeline), number: BigInt(number_) }, SEGMENT), end: number_ === to ? end.lsn : at(number_ + 1) }
  })
  return { member: member(number), systemId: system, end, attached: claimOf(1), segments }
}

const empty = (number: number): SealedSink => ({ member: member(number), systemId: undefined, end: undefined, attached: undefined, segments: [] })
const three = [member(1), member(2), member(3)]
const history2: readonly HistoryEntry[] = [{ timeline: tli(1), switchedAt: at(14, 200), reason: '' }]

const plan = (input: Partial<RecoveryInput>): RecoveryPlan =>
  planRecovery({ volume, members: three, configured: input.members?.length ?? 3, sealed: [], histories: new Map([[tli(2), history2]]), ...input })

function refusal(result: RecoveryPlan): { code: string; message: string } {
  assert.equal(result.kind, 'refuse', JSON.stringify(result, (_key, value: unknown) => (typeof value === 'bigint' ? String(value) : value)))
  return result as { kind: 'refuse'; code: string; message: string } as { code: string; message: string }
}

const fetched = (result: RecoveryPlan): readonly string[] => {
  assert.equal(result.kind, 'recover')
  return result.kind === 'recover' ? result.fetch.map(({ name }) => name) : []
}

test('every write quorum meets every seal quorum, and what is left over is too few to acknowledge', () => {
  for (let n = 1; n <= 9; n++) {
    assert.ok(writeQuorum(n) + sealQuorum(n) > n)
    assert.ok(n - sealQuorum(n) < writeQuorum(n))
  }
  assert.deepEqual([1, 2, 3, 5].map((n) => [writeQuorum(n), sealQuorum(n)]), [[1, 1], [2, 1], [2, 2], [3, 3]])
})

test('names are quoted and stand for one sink each', () => {
  assert.equal(synchronousStandbyNames(['a', 'b', 'c']), 'ANY 2 ("a", "b", "c")')
  assert.deepEqual(duplicates([member(1), { ...member(2), name: 'SINK1' }]), ['sink1'])
  assert.deepEqual(duplicates([member(1), { ...member(2), sinkId: 'id1' }]), ['id1'])
})

test('a stale volume fetches from where its own WAL ends to what is confirmed', () => {
  const result = plan({ sealed: [sink(1), sink(2, { to: 13 })] })
  assert.deepEqual(fetched(result), ['00000001000000000000000C', '00000001000000000000000D', '00000001000000000000000E'])
  assert.equal(result.kind === 'recover' && result.reach.lsn, at(14, 200))
  assert.equal(result.kind === 'recover' && result.timeline, 1)
  // The last one only from the sink that holds all of it.
  assert.deepEqual(result.kind === 'recover' && result.fetch.at(-1)?.from.map(({ name }) => name), ['sink1'])
})

test('too few sinks: a refusal that names who is missing', () => {
  const { code, message } = refusal(plan({ sealed: [sink(1)] }))
  assert.equal(code, 'UNREACHABLE')
  assert.match(message, /^1 of 3 sinks .* 2 are needed .* sink2 \(https:\/\/sink2\), sink3 /)
  // One that came back without its disk is another one.
  refusal(plan({ sealed: [sink(1), { ...sink(2), member: { ...member(2), sinkId: 'new' } }] }))
  // More are configured now than the volume knows of.
  refusal(plan({ members: [member(1)], configured: 3, sealed: [sink(1)] }))
})

test('sinks that never held anything: the volume is all there is', () => {
  assert.equal(plan({ sealed: [empty(1), empty(2), empty(3)] }).kind, 'start')
  // One that is new beside one that holds what is confirmed.
  assert.equal(plan({ sealed: [empty(1), sink(2)] }).kind, 'recover')
})

test('a volume that is ahead keeps what it has, and fetches nothing', () => {
  assert.deepEqual(fetched(plan({ volume: { ...volume, walEnd: at(15, 1) }, sealed: [sink(1), sink(2)] })), [])
  assert.deepEqual(fetched(plan({ volume: { ...volume, walEnd: at(14, 200) }, sealed: [sink(1), sink(2)] })), [])
})

test('a volume older than what the sinks keep: a refusal that names the missing range', () => {
  const { code, message } = refusal(plan({ sealed: [sink(1, { from: 13 }), sink(2, { from: 14 })] }))
  assert.equal(code, 'DATA_LOST')
  assert.match(message, /The WAL from 0\/C001F4 to 0\/D00000 is on no sink/)
  const hole = { ...sink(1), segments: sink(1).segments.filter(({ name }) => !name.endsWith('D')) }
  assert.match(refusal(plan({ sealed: [hole, hole].map((each, index) => ({ ...each, member: member(index + 1) })) })).message, /from 0\/D00000 to 0\/E00000/)
})

test('another cluster is no sink of ours', () => {
  assert.equal(refusal(plan({ sealed: [sink(1), sink(2, { system: 8n })] })).code, 'WRONG_SYSTEM')
})

test('a timeline later: the segment of the parting is the new timeline’s', () => {
  const result = plan({ sealed: [sink(1, { timeline: 2, from: 14, to: 16 }), sink(2)] })
  assert.deepEqual(fetched(result), ['00000001000000000000000C', '00000001000000000000000D', '00000002000000000000000E', '00000002000000000000000F', '000000020000000000000010'])
})

test('the old primary’s volume is not opened again when it has WAL that history left out', () => {
  const sealed = [sink(1, { timeline: 2, from: 8, to: 16 }), sink(2, { timeline: 2, from: 8, to: 16 })]
  const old = { ...volume, walEnd: at(14, 300) }
  const { code, message } = refusal(plan({ volume: old, sealed }))
  assert.equal(code, 'HISTORY_DIVERGED')
  assert.match(message, /Another box has taken over .* was left at 0\/E000C8, and the volume has WAL up to 0\/E0012C/)
  assert.equal(plan({ volume: { ...old, walEnd: at(14, 200) }, sealed: sealed.map((each) => ({ ...each })) }).kind, 'recover')
})

test('sinks of two histories: nobody guesses', () => {
  const other: readonly HistoryEntry[] = [{ timeline: tli(1), switchedAt: at(9), reason: '' }]
  const sealed = [sink(1, { timeline: 3 }), sink(2, { timeline: 2 })]
  assert.equal(refusal(plan({ sealed, histories: new Map([[tli(3), other]]) })).code, 'HISTORY_DIVERGED')
  assert.equal(refusal(plan({ sealed, histories: new Map() })).code, 'WAL_CORRUPT')
})

test('a recovery that came to no end: gone on with when nobody else did, refused when somebody did', () => {
  const unfinished = { ...volume, timeline: tli(2), history: history2, walEnd: at(14, 900), claim: claimOf(2) }
  const sealed = [sink(1), sink(2)]
  const result = plan({ volume: unfinished, sealed })
  assert.equal(result.kind === 'recover' && result.timeline, 2)
  assert.deepEqual(fetched(result), [])
  // It began before all that is confirmed.
  const early = { ...unfinished, history: [{ ...history2[0], switchedAt: at(14, 100) }] }
  assert.match(refusal(plan({ volume: early, sealed })).message, /left timeline 1 before 0\/E000C8/)
  // Another box took the same number.
  const taken = [1, 2].map((number) => ({ ...sink(number, { timeline: 2, to: 16 }), attached: claimOf(3, 'another') }))
  assert.match(refusal(plan({ volume: unfinished, sealed: taken })).message, /begun by a recovery that no quorum of sinks followed/)
  // It was this one, which was cut off before it wrote down that a quorum followed.
  const own = taken.map((each) => ({ ...each, attached: claimOf(2) }))
  assert.equal(plan({ volume: unfinished, sealed: own }).kind, 'recover')
})

test('property: whatever k of N had is reached, or nothing is opened', () => {
  const ends = fc.array(fc.integer({ min: 8 * 100, max: 20 * 100 }), { minLength: 1, maxLength: 5 })
  fc.assert(
    fc.property(ends, fc.integer({ min: 8 * 100, max: 20 * 100 }), fc.infiniteStream(fc.boolean()), (positions, walEnd, coin) => {
      const members = positions.map((_value, index) => member(index + 1))
      const sinks = positions.map((end, index) => sink(index + 1, { to: Math.floor(end / 100), bytes: 100 + (end % 100) * 1000 }))
      const sealed = sinks.filter(() => coin.next().value)
      const result = plan({ volume: { ...volume, redo: at(8), walEnd: at(Math.floor(walEnd / 100), 100 + (walEnd % 100) * 1000) }, members, sealed })
      const byEnd = sinks.map(({ end }) => end?.lsn ?? 0n).toSorted((a, b) => (a < b ? 1 : -1))
      const acknowledged = byEnd[writeQuorum(positions.length) - 1]
      if (sealed.length < sealQuorum(positions.length)) return result.kind === 'refuse'
      return result.kind === 'recover' && result.reach.lsn >= acknowledged
    }),
    { numRuns: 500 },
  )
})

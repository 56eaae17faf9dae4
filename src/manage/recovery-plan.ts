/**
 * What a box with sinks does before its Postgres starts: decided from the state of the volume and the answers of the sealed sinks.
 * Pure. The rules that it keeps are named where they bind:
 *
 *   quorum      fewer than N − k + 1 sealed sinks: nobody knows what was acknowledged, so nothing is opened.
 *   choice      the furthest sealed position, along the history that all of them share.
 *   continuity  from where the volume's own WAL ends up to that position every segment is there, or it is said which are not.
 *   prefix      a volume that holds WAL which the chosen history left out is another history, and is not opened.
 *   timeline    every recovery ends on a timeline of its own.
 *
 * What is told apart with care is a volume whose timeline was begun by a recovery that came to no end: its number may be taken by another.
 */
import type { ErrorCode } from '../errors.ts'
import { formatLsn, type Lsn } from '../wal/lsn.ts'
import { segmentEndingAt, segmentFileName, segmentOf, segmentStart } from '../wal/segment-name.ts'
import { type HistoryEntry, leftAt, type Timeline } from '../wal/timeline.ts'
import { type Member, sealQuorum } from './sink-quorum.ts'

export type Claim = { readonly generation: bigint; readonly by: string }

export type VolumeFacts = {
  readonly systemId: bigint
  readonly segmentBytes: number
  /** Of the newest checkpoint. */
  readonly timeline: Timeline
  /** How that timeline came about. */
  readonly history: readonly HistoryEntry[]
  readonly redo: Lsn
  /** Behind the last whole record of the WAL that goes on from `redo` on the volume; `redo` where there is none. */
  readonly walEnd: Lsn
  /** The generation under which it was opened last. */
  readonly claim: Claim | undefined
  /** The newest timeline that a quorum of sinks took from this very line of volumes. */
  readonly proven: Timeline
}

export type SealedEnd = { readonly timeline: Timeline; readonly lsn: Lsn; readonly lastRecord: Lsn | undefined }

export type HeldSegment = { readonly name: string; readonly end: Lsn }

/** What a sink said when it was sealed. */
export type SealedSink = {
  readonly member: Member
  /** undefined: it never held any WAL. */
  readonly systemId: bigint | undefined
  readonly end: SealedEnd | undefined
  /** Whom it took WAL from last, before this seal. */
  readonly attached: Claim | undefined
  readonly segments: readonly HeldSegment[]
}

export type RecoveryInput = {
  readonly volume: VolumeFacts
  /** All that were counted when commits were acknowledged last. */
  readonly members: readonly Member[]
  /** How many there are by the settings, which may be more or fewer than that. */
  readonly configured: number
  readonly sealed: readonly SealedSink[]
  /** By timeline, from all sinks; their bytes were compared. */
  readonly histories: ReadonlyMap<Timeline, readonly HistoryEntry[]>
}

export type Fetch = { readonly name: string; readonly from: readonly Member[] }

export type RecoveryPlan =
  /** No sink holds WAL: the volume is all there is. */
  | { readonly kind: 'start'; readonly says: string }
  | {
      readonly kind: 'recover'
      /** Whose history Postgres follows; it ends on a new one. */
      readonly timeline: Timeline
      /** It must reach this, or it is not opened. */
      readonly reach: SealedEnd
      readonly fetch: readonly Fetch[]
      readonly says: string
    }
  | { readonly kind: 'refuse'; readonly code: ErrorCode; readonly message: string }

type Refusal = Extract<RecoveryPlan, { kind: 'refuse' }>

const refuse = (code: ErrorCode, message: string): Refusal => ({ kind: 'refuse', code, message })

export function planRecovery(input: RecoveryInput): RecoveryPlan {
  const { volume, sealed } = input
  const tooFew = checkQuorum(input)
  if (tooFew) return tooFew
  const holding = sealed.filter(hasEnd)
  const foreign = sealed.find(({ systemId }) => systemId !== undefined && systemId !== volume.systemId)
  if (foreign) {
    return refuse('WRONG_SYSTEM', `The sink ${foreign.member.name} keeps the WAL of cluster ${foreign.systemId}, and this volume is cluster ${volume.systemId}: give each cluster sinks of its own.`)
  }
  if (holding.length === 0) return { kind: 'start', says: 'no sink holds WAL yet' }
  const chosen = choose(holding, input)
  if ('kind' in chosen) return chosen
  const trouble = checkHistory(volume, chosen, input)
  if (trouble) return trouble
  const { reach } = chosen
  const isAhead = volume.timeline > reach.timeline || (volume.timeline === reach.timeline && volume.walEnd >= reach.lsn)
  if (isAhead) {
    const says = `the volume holds all that the sinks confirmed, up to ${formatLsn(reach.lsn)} of timeline ${reach.timeline}`
    return { kind: 'recover', timeline: volume.timeline, reach, fetch: [], says }
  }
  return fetchFrom(volume, chosen, sealed, chosen.history)
}

/** Of those that counted last, and of those that count from now on: the volume may be a copy from before there were more. */
function checkQuorum({ members, configured, sealed }: Pick<RecoveryInput, 'members' | 'configured' | 'sealed'>): Refusal | undefined {
  const needed = sealQuorum(members.length)
  const counted = members.filter(({ sinkId }) => sealed.some(({ member }) => member.sinkId === sinkId))
  if (counted.length >= needed) {
    if (sealed.length >= sealQuorum(configured)) return undefined
    return refuse('UNREACHABLE', `${sealed.length} of ${configured} sinks answer, and ${sealQuorum(configured)} are needed: bring back others and start again; nothing was changed.`)
  }
  const missing = members.filter((member) => !counted.includes(member)).map(({ name, url }) => `${name} (${url})`)
  return refuse(
    'UNREACHABLE',
    `${counted.length} of ${members.length} sinks can be read, and ${needed} are needed to know every commit that was acknowledged: bring back ${missing.join(', ')} with what they kept, and start again; nothing was changed.`,
  )
}

type Chosen = { readonly reach: SealedEnd; readonly history: readonly HistoryEntry[]; readonly attached: Claim | undefined }
type Holding = SealedSink & { readonly end: SealedEnd }

const hasEnd = (sink: SealedSink): sink is Holding => sink.end !== undefined

/** The newest timeline, and on it the furthest. What another one holds beyond the point where that history left it was never acknowledged. */
function choose(holding: readonly Holding[], { histories }: RecoveryInput): Chosen | Refusal {
  const best = holding.reduce((a, b) => (b.end.timeline > a.end.timeline || (b.end.timeline === a.end.timeline && b.end.lsn > a.end.lsn) ? b : a))
  const { end: reach, attached } = best
  const history = reach.timeline === 1 ? [] : histories.get(reach.timeline)
  if (!history) {
    return refuse('WAL_CORRUPT', `No sink has the history of timeline ${reach.timeline}, on which ${best.member.name} ends: put ${best.member.name} right, or bring back another sink.`)
  }
  const apart = holding.find(({ end }) => leftAt(history, reach.timeline, end.timeline) === undefined)
  if (apart) {
    return refuse(
      'HISTORY_DIVERGED',
      `The sinks ${best.member.name} (timeline ${reach.timeline}) and ${apart.member.name} (timeline ${apart.end.timeline}) hold histories of which neither goes on with the other: take out the one that is wrong.`,
    )
  }
  return { reach, history, attached }
}

/** Whether what the volume holds is a part of the chosen history, or goes on from its end. */
function checkHistory(volume: VolumeFacts, { reach, history, attached }: Chosen, { sealed }: RecoveryInput): Refusal | undefined {
  const { timeline, proven, claim } = volume
  const isOwn = timeline <= proven
  if (timeline > reach.timeline) {
    const left = leftAt(volume.history, timeline, reach.timeline)
    const isWhole = left !== undefined && left !== 'never' && left >= reach.lsn
    const newest = sealed.reduce((most, sink) => (sink.attached && sink.attached.generation > most ? sink.attached.generation : most), 0n)
    if (isWhole && (isOwn || (claim && newest < claim.generation))) return undefined
    return refuse(
      'HISTORY_DIVERGED',
      `This volume is on timeline ${timeline}, which left timeline ${reach.timeline} before ${formatLsn(reach.lsn)}, and the sinks have confirmed all up to there: start from another copy of the volume.`,
    )
  }
  const isSinks = claim !== undefined && attached !== undefined && claim.generation === attached.generation && claim.by === attached.by
  if (!isOwn && !(timeline === reach.timeline && isSinks)) {
    return refuse(
      'HISTORY_DIVERGED',
      `The timeline ${timeline} of this volume was begun by a recovery that no quorum of sinks followed, and another box went on since: start from another copy of the volume.`,
    )
  }
  const left = leftAt(history, reach.timeline, timeline)
  if (left === 'never') return undefined
  // Pages may have been written that only WAL behind the parting explains: none of it can be taken back.
  if (left !== undefined && volume.walEnd <= left) return undefined
  const where = left === undefined ? 'is none of its ancestors' : `was left at ${formatLsn(left)}, and the volume has WAL up to ${formatLsn(volume.walEnd)}`
  return refuse(
    'HISTORY_DIVERGED',
    `Another box has taken over from this volume: the sinks are on timeline ${reach.timeline}, of whose history timeline ${timeline} ${where}; nothing of that was acknowledged. Start from another copy of the volume.`,
  )
}

/** The timelines of a history from the oldest to the newest, each with the segment in which it begins. */
function beginnings(history: readonly HistoryEntry[], timeline: Timeline, segmentBytes: number): readonly { timeline: Timeline; number: bigint }[] {
  const all = [...history.map((entry) => entry.timeline), timeline]
  return all.map((each, at) => ({ timeline: each, number: at === 0 ? 0n : segmentOf(history[at - 1].switchedAt, segmentBytes) }))
}

/** From the segment in which the volume's own WAL ends to the one that holds the last record. */
function fetchFrom(volume: VolumeFacts, { reach }: Chosen, sealed: readonly SealedSink[], history: readonly HistoryEntry[]): RecoveryPlan {
  const { segmentBytes, walEnd } = volume
  const begins = beginnings(history, reach.timeline, segmentBytes)
  const first = segmentOf(walEnd, segmentBytes)
  const last = segmentEndingAt(reach.lsn, segmentBytes)
  const fetch: Fetch[] = []
  let gap: { readonly from: bigint; to: bigint } | undefined
  for (let number = first; number <= last; number++) {
    // As Postgres does: a segment in which a timeline begins is the new one's, and holds the old one's bytes as well.
    const timeline = begins.findLast((begin) => begin.number <= number)?.timeline ?? reach.timeline
    const name = segmentFileName({ timeline, number }, segmentBytes)
    const until = number === last ? reach.lsn : segmentStart(number + 1n, segmentBytes)
    const from = sealed.filter(({ segments }) => segments.some((held) => held.name === name && held.end >= until)).map(({ member }) => member)
    if (from.length > 0) fetch.push({ name, from })
    else if (!gap) gap = { from: number, to: number + 1n }
    else if (gap.to === number) gap.to = number + 1n
  }
  if (gap) {
    const start = gap.from === first ? walEnd : segmentStart(gap.from, segmentBytes)
    const end = gap.to > last ? reach.lsn : segmentStart(gap.to, segmentBytes)
    return refuse(
      'DATA_LOST',
      `The WAL from ${formatLsn(start)} to ${formatLsn(end)} is on no sink that answers, and the volume ends at ${formatLsn(walEnd)}: start from a newer copy of the volume, or bring back a sink that has it.`,
    )
  }
  const says = `${fetch.length} segments of the sinks take the volume from ${formatLsn(walEnd)} to ${formatLsn(reach.lsn)} of timeline ${reach.timeline}`
  return { kind: 'recover', timeline: reach.timeline, reach, fetch, says }
}

/**
 * What the answers of the sinks mean together for a restore_command. Pure.
 *
 * Postgres takes exit code 1 for "that is the end of WAL" and opens with what it has: after a fault this would lose
 * commits. So the end must be proven, and what proves it is a sink that is sealed, holds no such file, and whose WAL ends
 * at or before it. One sink proves it for itself only: among several, one may hold more than another. `needed` of them
 * must have answered before the end, or a last segment that is cut off at the end, is believed: as many as meet every
 * quorum of acknowledgements, N - k + 1 of N sinks with `ANY k`.
 */
import type { Lsn } from '../wal/lsn.ts'
import { parseSegmentFileName, segmentStart } from '../wal/segment-name.ts'
import { parseHistoryFileName, type Timeline } from '../wal/timeline.ts'

/** Where WAL ends on a sink that takes no more. */
export type FinalEnd = { readonly generation: bigint; readonly systemId: bigint; readonly timeline: Timeline; readonly lsn: Lsn; readonly segmentBytes: number }

export type SinkAnswer =
  /** A whole segment: the same bytes on every sink that has it. */
  | { readonly kind: 'closed'; readonly path: string }
  /** The last segment of a sealed sink, with WAL up to `end`. */
  | { readonly kind: 'sealed'; readonly path: string; readonly end: Lsn }
  | { readonly kind: 'history'; readonly path: string; readonly sha256: string }
  /** Not there, and the sink is sealed. */
  | { readonly kind: 'absent'; readonly end: FinalEnd }
  /** Anything else: nothing follows from it. */
  | { readonly kind: 'unknown'; readonly reason: string }

export type Verdict =
  | { readonly kind: 'take'; readonly path: string }
  | { readonly kind: 'end' }
  | { readonly kind: 'again'; readonly reason: string }

/** Whether a sink whose WAL ends at `end` proves by not having it that `name` never was. */
export function provesEnd(name: string, end: FinalEnd): boolean {
  const history = parseHistoryFileName(name)
  // The history of a timeline that the sink knows of is missing, not absent.
  if (history !== undefined) return history > end.timeline
  const segment = parseSegmentFileName(name, end.segmentBytes)
  if (segment === undefined) return false
  // A later timeline of which a sealed sink holds nothing was never acknowledged by it.
  return segment.timeline > end.timeline || segmentStart(segment.number, end.segmentBytes) >= end.lsn
}

export function judge(name: string, answers: readonly SinkAnswer[], needed: number): Verdict {
  const closed = answers.find((answer) => answer.kind === 'closed')
  if (closed) return { kind: 'take', path: closed.path }
  const histories = answers.filter((answer) => answer.kind === 'history')
  if (histories.length > 0) return judgeHistories(histories)

  const sealed = answers.filter((answer) => answer.kind === 'sealed')
  const proofs = answers.filter((answer) => answer.kind === 'absent' && provesEnd(name, answer.end))
  if (sealed.length + proofs.length < needed) {
    const unknown = answers.find((answer) => answer.kind === 'unknown')
    return { kind: 'again', reason: unknown?.reason ?? `${sealed.length + proofs.length} of ${needed} sinks have answered for sure` }
  }
  const furthest = sealed.reduce<(typeof sealed)[number] | undefined>((best, each) => (best && best.end >= each.end ? best : each), undefined)
  return furthest ? { kind: 'take', path: furthest.path } : { kind: 'end' }
}

/** Two boxes may have tried to take the same timeline: the one that has it is the one that most sinks know. */
function judgeHistories(histories: readonly Extract<SinkAnswer, { kind: 'history' }>[]): Verdict {
  const count = (sha256: string): number => histories.filter((each) => each.sha256 === sha256).length
  const best = histories.reduce((a, b) => (count(b.sha256) > count(a.sha256) ? b : a))
  const rival = histories.find((each) => each.sha256 !== best.sha256 && count(each.sha256) === count(best.sha256))
  return rival ? { kind: 'again', reason: 'the sinks hold different histories under that name' } : { kind: 'take', path: best.path }
}

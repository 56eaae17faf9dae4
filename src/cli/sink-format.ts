/** What a sink says, as text for people. Pure. */
import type { HistoryAnswer, PinAnswer, SegmentAnswer, StatusAnswer, VerifyAnswer } from './sink-ask.ts'

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'] as const

function size(bytes: number): string {
  const unit = bytes < 1024 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(bytes) / 10))
  const value = bytes / 1024 ** unit
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`
}

type Position = StatusAnswer['flushed']
const position = (at: Position): string => (at ? `${at.lsn} on timeline ${at.timeline}` : 'unknown')

export function formatSinkStatus(status: StatusAnswer): string {
  const { seal } = status
  const rows: [string, string | undefined][] = [
    ['sink', `${status.name} (${status.sinkId}), version ${status.version}`],
    ['activity', status.activity],
    ['problem', status.problem && `${status.problem.message} [${status.problem.code}]`],
    ['cluster', status.systemId ?? 'none yet'],
    ['generation', status.generation],
    ['sealed by', seal && `${seal.by}, generation ${seal.generation}, ${seal.at}${seal.position ? `, WAL ends at ${position(seal.position)}` : ''}`],
    ['flushed', position(status.flushed)],
    ['held from', status.coverageStart ?? 'nothing yet'],
    ['kept from', status.floor ?? 'the beginning (no pin)'],
    ['segments', `${status.segments}, ${size(status.storedBytes)} on disk, ${size(status.freeBytes)} free`],
    ['quarantined', status.quarantined > 0 ? String(status.quarantined) : undefined],
    ['receiver', status.receiverRestarts > 0 ? `ended ${status.receiverRestarts} times by itself` : undefined],
  ]
  return rows.flatMap(([name, text]) => (text === undefined ? [] : `${`${name}:`.padEnd(13)}${text}\n`)).join('')
}

export const formatSegments = (segments: readonly SegmentAnswer[]): string =>
  segments.map(({ name, kind, start, end, storedBytes }) => `${name}  ${kind.padEnd(7)}  ${start.padEnd(12)} ${end.padEnd(12)} ${size(storedBytes)}\n`).join('')

export const formatHistory = ({ name, bytes }: HistoryAnswer): string => `${name.padEnd(24)}  history  ${size(bytes)}\n`

export const formatPins = (pins: readonly PinAnswer[]): string =>
  pins.length === 0 ? 'no pins: nothing is removed\n' : pins.map(({ name, lsn, expiresAt }) => `${name.padEnd(24)}  ${lsn.padEnd(12)} ${expiresAt ? `until ${expiresAt}` : 'until removed'}\n`).join('')

export function formatVerify({ segments, bytes, faults, gaps }: VerifyAnswer): string {
  const lines = [
    ...faults.map(({ name, message }) => `${name}: ${message}`),
    ...gaps.map(({ start, end }) => `missing: from ${start} up to ${end}`),
    `${segments} segments, ${size(bytes)} read: ${faults.length === 0 ? 'all right' : `${faults.length} not right`}${gaps.length === 0 ? '' : `, ${gaps.length} gaps`}`,
  ]
  return `${lines.join('\n')}\n`
}

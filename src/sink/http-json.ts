/**
 * What is said over HTTP, as JSON. LSNs as Postgres prints them; generations and system identifiers as strings of digits,
 * since they don't fit a JSON number; what is not known is left out. Pure.
 */
import { codeOf, type ErrorCode } from '../errors.ts'
import { formatLsn, type Lsn } from '../wal/lsn.ts'
import type { Pin, SealStatus, SegmentInfo, SinkProgress, SinkStatus, VerifyReport, WalPosition } from './sink.ts'

const statuses: Partial<Record<ErrorCode, number>> = {
  BAD_REQUEST: 400,
  FORBIDDEN: 403,
  NOT_FOUND: 404,
  TIMEOUT: 408,
  STALE_GENERATION: 409,
  GENERATION_TAKEN: 409,
  NOT_SEALED: 409,
  WRONG_SYSTEM: 409,
  HISTORY_DIVERGED: 409,
  LOCKED: 503,
  TOO_MANY: 503,
  SHUTDOWN: 503,
  POSTGRES_UNAVAILABLE: 503,
  DISK_FULL: 507,
}

export const httpStatus = (error: unknown): number => statuses[codeOf(error)] ?? 500

const lsn = (value: Lsn | undefined): string | undefined => (value === undefined ? undefined : formatLsn(value))

export const positionJson = (position: WalPosition | undefined) =>
  position && { timeline: position.timeline, lsn: formatLsn(position.lsn), lastRecord: lsn(position.lastRecord) }

export const sealJson = (seal: SealStatus | undefined) => seal && { ...seal, generation: String(seal.generation), position: positionJson(seal.position) }

export const statusJson = (status: SinkStatus) => ({
  ...status,
  systemId: status.systemId === undefined ? undefined : String(status.systemId),
  generation: String(status.generation),
  seal: sealJson(status.seal),
  flushed: positionJson(status.flushed),
  coverageStart: lsn(status.coverageStart),
  floor: lsn(status.floor),
})

export const progressJson = (progress: SinkProgress) => ({
  activity: progress.activity,
  problem: progress.problem,
  generation: String(progress.generation),
  flushed: positionJson(progress.flushed),
  floor: lsn(progress.floor),
})

export const segmentJson = (segment: SegmentInfo) => ({ ...segment, start: formatLsn(segment.start), end: formatLsn(segment.end) })
export const pinJson = (pin: Pin) => ({ ...pin, lsn: formatLsn(pin.lsn) })
export const verifyJson = (report: VerifyReport) => ({
  ...report,
  gaps: report.gaps.map(({ start, end }) => ({ start: formatLsn(start), end: formatLsn(end) })),
})

/**
 * The end of WAL here, as long as it is final: sealed, and not attached again since. Without it, something that is not
 * held is merely not held yet.
 */
export function finalEnd({ seal, generation, systemId, segmentBytes }: SinkStatus) {
  if (seal?.position === undefined || seal.generation <= generation || systemId === undefined || segmentBytes === undefined) return undefined
  const { timeline, lsn } = seal.position
  return { generation: String(seal.generation), systemId: String(systemId), timeline, lsn: formatLsn(lsn), segmentBytes }
}

/**
 * What may be removed. Retention follows proof, not counts: a pin is somebody who may still need the WAL from its LSN on.
 * Without any pin nothing is removed. Pure.
 */
import type { Lsn } from '../wal/lsn.ts'
import type { Pin } from './sink.ts'

export const isLive = ({ expiresAt }: Pin, now: number): boolean => expiresAt === undefined || Date.parse(expiresAt) > now

/** The lowest pin that has not expired. */
export function retentionFloor(pins: readonly Pin[], now: number): Lsn | undefined {
  let floor: Lsn | undefined
  for (const pin of pins) if (isLive(pin, now) && (floor === undefined || pin.lsn < floor)) floor = pin.lsn
  return floor
}

/** Those of `segments` (of any timeline) that end at or before the floor; never the one that starts last. */
export function removable<T extends { readonly start: Lsn; readonly bytes: number }>(segments: readonly T[], floor: Lsn | undefined): T[] {
  if (floor === undefined) return []
  const last = segments.reduce<Lsn | undefined>((high, { start }) => (high === undefined || start > high ? start : high), undefined)
  return segments.filter(({ start, bytes }) => start + BigInt(bytes) <= floor && start !== last)
}

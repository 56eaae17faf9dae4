/**
 * Names of WAL segments: 24 hexadecimal digits, timeline and number. Pure.
 * Source: src/include/access/xlog_internal.h (XLogFileName)
 */
import { toLsn, type Lsn } from './lsn.ts'
import { formatTimeline, toTimeline, type Timeline } from './timeline.ts'

export type WalSegment = { readonly timeline: Timeline; readonly number: bigint }

export const MIN_SEGMENT_BYTES = 1024 * 1024
export const MAX_SEGMENT_BYTES = 1024 * 1024 * 1024
const FOUR_GB = 0x100000000n

/** `--wal-segsize`: a power of two from 1 MB to 1 GB. */
export const isSegmentSize = (bytes: number): boolean =>
  Number.isInteger(bytes) && bytes >= MIN_SEGMENT_BYTES && bytes <= MAX_SEGMENT_BYTES && (bytes & (bytes - 1)) === 0

const hex8 = (value: bigint): string => value.toString(16).toUpperCase().padStart(8, '0')

export function segmentFileName({ timeline, number }: WalSegment, segmentBytes: number): string {
  const perFile = FOUR_GB / BigInt(segmentBytes)
  return formatTimeline(timeline) + hex8(number / perFile) + hex8(number % perFile)
}

/** undefined: not the name of a segment of this size. */
export function parseSegmentFileName(name: string, segmentBytes: number): WalSegment | undefined {
  const match = /^([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})$/.exec(name)
  if (!match) return undefined
  const timeline = toTimeline(Number.parseInt(match[1], 16))
  const perFile = FOUR_GB / BigInt(segmentBytes)
  const low = BigInt(`0x${match[3]}`)
  if (!timeline || low >= perFile) return undefined
  return { timeline, number: BigInt(`0x${match[2]}`) * perFile + low }
}

export const segmentStart = (number: bigint, segmentBytes: number): Lsn => toLsn(number * BigInt(segmentBytes))

/** The segment that holds the byte at `lsn`. */
export const segmentOf = (lsn: Lsn, segmentBytes: number): bigint => lsn / BigInt(segmentBytes)

/** The segment that holds the byte before `lsn`: where WAL that ends at `lsn` ends. */
export const segmentEndingAt = (lsn: Lsn, segmentBytes: number): bigint => (lsn === 0n ? 0n : (lsn - 1n) / BigInt(segmentBytes))

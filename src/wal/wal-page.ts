/**
 * The header of a WAL page: 8 kB each, with what tells a page of this server's WAL from anything else. Pure.
 * Source: src/include/access/xlog_internal.h (XLogPageHeaderData), src/backend/access/transam/xlogreader.c (XLogReaderValidatePageHeader)
 */
import type { Lsn } from './lsn.ts'

export const PAGE_BYTES = 8192
export const SHORT_HEADER_BYTES = 24
export const LONG_HEADER_BYTES = 40
/** XLOG_PAGE_MAGIC of Postgres 18. */
export const PAGE_MAGIC = 0xd118

export const pageFlag = { firstIsContinuation: 1, longHeader: 2, backupRemovable: 4, firstIsOverwrite: 8 } as const
const ALL_FLAGS = 15

export type PageFault = 'magic' | 'flags' | 'system-id' | 'segment-size' | 'page-size' | 'address' | 'timeline'

export type PageExpectation = {
  readonly address: Lsn
  readonly systemId: bigint
  readonly segmentBytes: number
  /** Timelines never fall along WAL, and none is above that of the file. */
  readonly minTimeline: number
  readonly maxTimeline: number
}

export const pageFlags = (page: Buffer, at: number): number => page.readUInt16LE(at + 2)
export const pageTimeline = (page: Buffer, at: number): number => page.readUInt32LE(at + 4)
/** Bytes of a record that began on an earlier page, without the padding after it. */
export const pageRemaining = (page: Buffer, at: number): number => page.readUInt32LE(at + 16)
export const pageHeaderBytes = (flags: number): number => (flags & pageFlag.longHeader ? LONG_HEADER_BYTES : SHORT_HEADER_BYTES)

/** Looks at the header at `at`, of which LONG_HEADER_BYTES are there. undefined: it is what it should be. */
export function checkPageHeader(page: Buffer, at: number, expected: PageExpectation): PageFault | undefined {
  if (page.readUInt16LE(at) !== PAGE_MAGIC) return 'magic'
  const flags = pageFlags(page, at)
  if ((flags & ~ALL_FLAGS) !== 0) return 'flags'
  if (flags & pageFlag.longHeader) {
    if (page.readBigUInt64LE(at + 24) !== expected.systemId) return 'system-id'
    if (page.readUInt32LE(at + 32) !== expected.segmentBytes) return 'segment-size'
    if (page.readUInt32LE(at + 36) !== PAGE_BYTES) return 'page-size'
  } else if (expected.address % BigInt(expected.segmentBytes) === 0n) return 'flags'
  if (page.readBigUInt64LE(at + 8) !== expected.address) return 'address'
  const timeline = pageTimeline(page, at)
  if (timeline < expected.minTimeline || timeline > expected.maxTimeline) return 'timeline'
  return undefined
}

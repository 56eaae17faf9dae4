/**
 * Looks at the bytes of a segment as they arrive: length, page headers, and that nothing but zeros follows the last page.
 * Pure. Records are checked by the sink; what it saw is vouched for by the checksum that it sends.
 */
import { createHash } from 'node:crypto'
import { BeyondError } from '../errors.ts'
import { toLsn } from '../wal/lsn.ts'
import { isSegmentSize, MAX_SEGMENT_BYTES, parseSegmentFileName, segmentStart, type WalSegment } from '../wal/segment-name.ts'
import { checkPageHeader, LONG_HEADER_BYTES, PAGE_BYTES, pageFlag, pageFlags, pageTimeline } from '../wal/wal-page.ts'

const ZEROS = Buffer.alloc(64 * 1024)

export type SegmentExpectation = {
  readonly name: string
  readonly bytes: number
  /** undefined: whatever the first page says. */
  readonly systemId?: bigint | undefined
  readonly sha256?: string | undefined
}

export class SegmentCheck {
  readonly #expected: SegmentExpectation
  readonly #segment: WalSegment
  readonly #hash = createHash('sha256')
  readonly #header = Buffer.alloc(LONG_HEADER_BYTES)
  #systemId: bigint | undefined
  #minTimeline = 1
  #bytes = 0
  #isTail = false

  /** Throws WAL_CORRUPT, as all else here. */
  constructor(expected: SegmentExpectation) {
    const segment = isSegmentSize(expected.bytes) ? parseSegmentFileName(expected.name, expected.bytes) : undefined
    if (!segment) throw corrupt(expected.name, `can't have ${expected.bytes} bytes`)
    this.#expected = expected
    this.#segment = segment
    this.#systemId = expected.systemId
  }

  push(piece: Buffer): void {
    const { name, bytes } = this.#expected
    if (this.#bytes + piece.length > bytes) throw corrupt(name, `is longer than ${bytes} bytes`)
    if (this.#expected.sha256 !== undefined) this.#hash.update(piece)
    let at = 0
    while (at < piece.length) {
      const offset = this.#bytes % PAGE_BYTES
      if (this.#isTail) {
        const part = piece.subarray(at, at + ZEROS.length)
        if (!part.equals(ZEROS.subarray(0, part.length))) throw corrupt(name, 'goes on after its end')
        this.#bytes += part.length
        at += part.length
        continue
      }
      if (offset < LONG_HEADER_BYTES) {
        const take = Math.min(LONG_HEADER_BYTES - offset, piece.length - at)
        piece.copy(this.#header, offset, at, at + take)
        if (offset + take === LONG_HEADER_BYTES) this.#checkPage(this.#bytes - offset)
        this.#bytes += take
        at += take
        continue
      }
      const take = Math.min(PAGE_BYTES - offset, piece.length - at)
      this.#bytes += take
      at += take
    }
  }

  finish(): void {
    const { name, bytes, sha256 } = this.#expected
    if (this.#bytes < bytes) throw corrupt(name, `has ${this.#bytes} of ${bytes} bytes`)
    if (sha256 !== undefined && this.#hash.digest('hex') !== sha256) throw corrupt(name, 'does not have its checksum')
  }

  #checkPage(at: number): void {
    const { name, bytes } = this.#expected
    const header = this.#header
    // Behind a segment switch, or the end of WAL. The first page is never empty.
    if (at > 0 && header.equals(ZEROS.subarray(0, LONG_HEADER_BYTES))) {
      this.#isTail = true
      return
    }
    if (at === 0) {
      if (!(pageFlags(header, 0) & pageFlag.longHeader)) throw corrupt(name, 'does not begin with the header of a segment')
      this.#systemId ??= header.readBigUInt64LE(24)
    }
    const fault = checkPageHeader(header, 0, {
      address: toLsn(segmentStart(this.#segment.number, bytes) + BigInt(at)),
      systemId: this.#systemId ?? 0n,
      segmentBytes: bytes,
      minTimeline: this.#minTimeline,
      maxTimeline: this.#segment.timeline,
    })
    if (fault) throw corrupt(name, `has a wrong page at byte ${at} (${fault})`)
    this.#minTimeline = pageTimeline(header, 0)
  }
}

export const corrupt = (name: string, what: string): BeyondError => new BeyondError('WAL_CORRUPT', `Segment ${name} as it came ${what}.`, { facts: { name } })

/** A length that a segment can have, as it stands in a header; undefined otherwise. */
export function segmentBytesOf(text: unknown): number | undefined {
  const bytes = typeof text === 'string' && /^\d{1,10}$/.test(text) ? Number(text) : 0
  return bytes <= MAX_SEGMENT_BYTES && isSegmentSize(bytes) ? bytes : undefined
}

/**
 * Avro binary, written straight into one growing buffer.
 * Source: https://avro.apache.org/docs/1.12.0/specification/#binary-encoding
 *
 * The functions take the buffer and an offset and answer the offset after what they wrote; the caller has made room.
 * No BigInt: a 64-bit number travels as two limbs of base 2^28, four varint bytes each.
 */
const LIMB = 2 ** 28
/** Room that any number takes at most. */
export const MAX_VARINT_BYTES = 10

export class AvroWriter {
  bytes: Buffer
  position = 0

  constructor(capacity: number) {
    this.bytes = Buffer.allocUnsafeSlow(capacity)
  }

  /** Makes room for `count` more bytes after `position`; `bytes` may be another buffer afterwards. */
  ensure(count: number): void {
    const needed = this.position + count
    if (needed > this.bytes.length) this.#grow(needed)
  }

  #grow(needed: number): void {
    const larger = Buffer.allocUnsafeSlow(Math.max(needed, this.bytes.length * 2))
    this.bytes.copy(larger, 0, 0, this.position)
    this.bytes = larger
  }
}

/** A value below 2^53 in base 128, as it stands. */
function putVarint(out: Buffer, at: number, value: number): number {
  if (value < 128) {
    out[at] = value
    return at + 1
  }
  if (value < LIMB) return putSmall(out, at, value)
  const high = Math.floor(value / LIMB)
  return putVarint(out, putFullLimb(out, at, value - high * LIMB), high)
}

function putSmall(out: Buffer, at: number, value: number): number {
  while (value > 127) {
    out[at++] = (value & 127) | 128
    value >>>= 7
  }
  out[at] = value
  return at + 1
}

/** The low 28 bits of a number that goes on. */
function putFullLimb(out: Buffer, at: number, limb: number): number {
  out[at] = (limb & 127) | 128
  out[at + 1] = ((limb >>> 7) & 127) | 128
  out[at + 2] = ((limb >>> 14) & 127) | 128
  out[at + 3] = (limb >>> 21) | 128
  return at + 4
}

/** An int or long: a whole number with magnitude below 2^52. */
export function putLong(out: Buffer, at: number, value: number): number {
  return putVarint(out, at, value < 0 ? -2 * value - 1 : 2 * value)
}

/** A long: sign and magnitude `high * 2^28 + low`, at most 2^63 - 1 (2^63 if negative), negative zero excluded. */
export function putLongLimbs(out: Buffer, at: number, negative: boolean, high: number, low: number): number {
  let zigzagHigh = high * 2
  let zigzagLow = low * 2 - (negative ? 1 : 0)
  if (zigzagLow >= LIMB) {
    zigzagLow -= LIMB
    zigzagHigh += 1
  } else if (zigzagLow < 0) {
    zigzagLow += LIMB
    zigzagHigh -= 1
  }
  if (zigzagHigh === 0) return putSmall(out, at, zigzagLow)
  return putVarint(out, putFullLimb(out, at, zigzagLow), zigzagHigh)
}

/** A long from the two's complement halves of a 64-bit number, as the network brings it. */
export function putInt64(out: Buffer, at: number, high: number, low: number): number {
  const unsignedLow = low >>> 0
  if (high >= 0) return putLongLimbs(out, at, false, high * 16 + (unsignedLow >>> 28), unsignedLow & (LIMB - 1))
  // Magnitude: invert and add one.
  const magnitudeLow = -low >>> 0
  const magnitudeHigh = (~high + (unsignedLow === 0 ? 1 : 0)) >>> 0
  return putLongLimbs(out, at, true, magnitudeHigh * 16 + (magnitudeLow >>> 28), magnitudeLow & (LIMB - 1))
}

/** Length and bytes of `source` from `start` to `end`: an Avro string or bytes. */
export function putBytes(out: Buffer, at: number, source: Buffer, start: number, end: number): number {
  const length = end - start
  at = putLong(out, at, length)
  // A call into native code costs as much as copying a few dozen bytes here.
  if (length > 64) source.copy(out, at, start, end)
  else for (let from = start, to = at; from < end; from++, to++) out[to] = source[from]
  return at + length
}

export function putString(out: Buffer, at: number, text: string): number {
  const length = Buffer.byteLength(text)
  at = putLong(out, at, length)
  out.write(text, at, length, 'utf8')
  return at + length
}

/**
 * The few DER values that a certificate is made of. Writing only; reading is left to node:crypto.
 * Source: ITU-T X.690.
 */
const tag = (number: number, ...parts: readonly Uint8Array[]): Uint8Array => {
  const body = Buffer.concat(parts)
  return Buffer.concat([Buffer.from([number]), length(body.length), body])
}

function length(bytes: number): Uint8Array {
  if (bytes < 0x80) return Buffer.from([bytes])
  const digits = Buffer.from(bytes.toString(16).padStart(bytes > 0xff ? (bytes > 0xffff ? 6 : 4) : 2, '0'), 'hex')
  return Buffer.concat([Buffer.from([0x80 | digits.length]), digits])
}

export const sequence = (...parts: readonly Uint8Array[]): Uint8Array => tag(0x30, ...parts)
export const set = (...parts: readonly Uint8Array[]): Uint8Array => tag(0x31, ...parts)
export const octetString = (body: Uint8Array): Uint8Array => tag(0x04, body)
export const utf8String = (text: string): Uint8Array => tag(0x0c, Buffer.from(text))
export const boolean = (value: boolean): Uint8Array => tag(0x01, Buffer.from([value ? 0xff : 0]))
/** `[number]` that wraps a whole value. */
export const explicit = (number: number, body: Uint8Array): Uint8Array => tag(0xa0 | number, body)
/** `[number]` that stands in place of a primitive value's own tag. */
export const implicit = (number: number, body: Uint8Array): Uint8Array => tag(0x80 | number, body)

/** A non-negative integer, big-endian; a leading zero keeps it from being negative. */
export function integer(bytes: Uint8Array): Uint8Array {
  let start = 0
  while (start < bytes.length - 1 && bytes[start] === 0) start++
  const digits = bytes.subarray(start)
  return digits[0] & 0x80 ? tag(0x02, Buffer.from([0]), digits) : tag(0x02, digits)
}

/** `unused` bits at the end do not count; in a list of named bits trailing zeros must be left out. */
export const bitString = (bytes: Uint8Array, unused = 0): Uint8Array => tag(0x03, Buffer.from([unused]), bytes)

/** `1.2.840.10045.2.1` and the like. */
export function objectIdentifier(dotted: string): Uint8Array {
  const [first, second, ...rest] = dotted.split('.').map(Number)
  const bytes = [first * 40 + second, ...rest.flatMap(base128)]
  return tag(0x06, Buffer.from(bytes))
}

function base128(value: number): number[] {
  const digits = [value & 0x7f]
  for (let left = Math.floor(value / 128); left > 0; left = Math.floor(left / 128)) digits.unshift((left & 0x7f) | 0x80)
  return digits
}

/** UTCTime until 2049, GeneralizedTime from then on, as RFC 5280 4.1.2.5 wants it. */
export function time(date: Date): Uint8Array {
  const text = date.toISOString().replaceAll(/[-:T]|\.\d+/g, '')
  return date.getUTCFullYear() < 2050 ? tag(0x17, Buffer.from(text.slice(2))) : tag(0x18, Buffer.from(text))
}

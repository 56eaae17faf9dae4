/**
 * Text of float4 and float8 (extra_float_digits = 1: the shortest text that reads back exactly) → Avro float and double.
 */
import { malformed } from './malformed.ts'

/** Powers of ten that a double holds exactly. */
const exactPowers = Float64Array.from({ length: 23 }, (_, exponent) => 10 ** exponent)
const scratch = new DataView(new ArrayBuffer(8))

export function putDouble(out: Buffer, to: number, text: Buffer, start: number, end: number): number {
  scratch.setFloat64(0, parse(text, start, end), true)
  for (let byte = 0; byte < 8; byte++) out[to + byte] = scratch.getUint8(byte)
  return to + 8
}

export function putFloat(out: Buffer, to: number, text: Buffer, start: number, end: number): number {
  const value = parse(text, start, end)
  let rounded = Math.fround(value)
  // Rounding twice goes wrong where the double lies exactly between two floats and the text did not.
  const other = 2 * value - rounded
  if (other !== rounded && Math.fround(other) === other) rounded = nearestFloat(text.toString('latin1', start, end), value, rounded, other)
  scratch.setFloat32(0, rounded, true)
  for (let byte = 0; byte < 4; byte++) out[to + byte] = scratch.getUint8(byte)
  return to + 4
}

/** Plain decimals of up to 15 digits need no string: digits / power of ten is rounded once, hence right. */
function parse(text: Buffer, start: number, end: number): number {
  const negative = text[start] === 0x2d
  let at = negative ? start + 1 : start
  if (end - at > 16) return parseRare(text, start, end)
  let digits = 0
  let count = 0
  let point = -1
  for (; at < end; at++) {
    const value = text[at] - 0x30
    if (value >= 0 && value <= 9) {
      digits = digits * 10 + value
      count++
    } else if (text[at] === 0x2e && point < 0) {
      point = count
    } else {
      return parseRare(text, start, end)
    }
  }
  if (count === 0 || count > 15) return parseRare(text, start, end)
  const value = point < 0 ? digits : digits / exactPowers[count - point]
  return negative ? -value : value
}

const FLOAT_TEXT = /^-?(?:\d+(?:\.\d+)?(?:e[+-]\d+)?|Infinity)$|^NaN$/

function parseRare(text: Buffer, start: number, end: number): number {
  const shown = text.toString('latin1', start, Math.min(end, start + 64))
  if (!FLOAT_TEXT.test(shown)) malformed('Postgres sent a value that is no floating point number.')
  return Number(shown)
}

/** Which of two neighbouring floats is nearer to the decimal text, whose nearest double `middle` is as far from both. */
function nearestFloat(text: string, middle: number, rounded: number, other: number): number {
  const side = compareExactly(text, middle)
  if (side === 0) return rounded
  return side > 0 ? Math.max(rounded, other) : Math.min(rounded, other)
}

/** Sign of (decimal text − double), exactly. */
function compareExactly(text: string, value: number): number {
  const match = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(text)
  if (!match) return 0
  const decimals = match[3] ?? ''
  let decimal = BigInt(`${match[2]}${decimals}`) * (match[1] ? -1n : 1n)
  const exponent = Number(match[4] ?? 0) - decimals.length
  // value = binary * 2^-1074, the smallest subnormal being one.
  scratch.setFloat64(0, value)
  const bits = scratch.getBigUint64(0)
  const field = (bits >> 52n) & 0x7ffn
  const fraction = bits & 0xfffffffffffffn
  let binary = (field === 0n ? fraction : (fraction | 0x10000000000000n) << (field - 1n)) * (bits >> 63n ? -1n : 1n)
  decimal <<= 1074n
  if (exponent >= 0) decimal *= 10n ** BigInt(exponent)
  else binary *= 10n ** BigInt(-exponent)
  return decimal > binary ? 1 : decimal < binary ? -1 : 0
}

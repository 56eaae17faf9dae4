/**
 * TupleData of pgoutput (text format) → Avro record, bytes to bytes: no object, string or view per row or column.
 * Source: https://www.postgresql.org/docs/18/protocol-logicalrep-message-formats.html#PROTOCOL-LOGICALREP-MESSAGE-FORMATS-TUPLEDATA
 */
import { MAX_SERVER_FRAME_BYTES } from '../transport/frame.ts'
import { parseDate, parseTimestamp, plainDateDays, plainTimestampMicros } from '../transport/postgres-time.ts'
import { putBytes, putLong, putLongLimbs, type AvroWriter } from './avro-writer.ts'
import { putDouble, putFloat } from './float-text.ts'
import { valueKind } from './column-type.ts'
import { malformed } from './malformed.ts'
import { valueTag } from './pgoutput-message.ts'

/** Zigzag varints of the branch numbers of a column's union; see relation-schema.ts. */
const branch = { null: 0, value: 2, text: 4, unchanged: 4 } as const

/** The most that encoding adds to a column: a one-digit int8 of 6 bytes becomes a branch and a varint, a one-digit float8 9 bytes. */
export const SLACK_PER_COLUMN = 8

/** Where filling in would make a frame longer than clients accept, a value stays marked as unchanged. */
const MAX_FILLED_BYTES = MAX_SERVER_FRAME_BYTES - 64 * 1024

/**
 * Encodes the tuple whose column count stands at `at`, and answers the offset after it. The writer must have room for the length of
 * the message and SLACK_PER_COLUMN for each column; its position moves on.
 *
 * `old` is where the tuple stands from which unchanged values are filled in, -1 if there is none.
 * Throws BAD_REPLICATION_DATA.
 */
export function transcodeTuple(message: Buffer, at: number, kinds: Uint8Array, writer: AvroWriter, old: number): number {
  const columns = kinds.length
  const size = message.length
  if (at + 2 > size) endsEarly()
  if (((message[at] << 8) | message[at + 1]) !== columns)
    malformed(`A tuple holds another number of columns than its relation, which has ${columns}.`)
  at += 2
  let out = writer.bytes
  let to = writer.position
  let oldColumn = 0
  let oldAt = old + 2
  let filled = 0

  for (let column = 0; column < columns; column++) {
    const kind = kinds[column]
    if (at >= size) endsEarly()
    let tag = message[at]
    /** Where the value stands: in this tuple, or in the old one. */
    let start = at + 5
    if (tag === valueTag.text) {
      if (start > size) endsEarly()
      at = start + ((message[at + 1] << 24) | (message[at + 2] << 16) | (message[at + 3] << 8) | message[at + 4])
      if (at < start || at > size) endsEarly()
    } else {
      at += 1
    }
    let end = at
    if (kind === valueKind.skipped) continue

    if (tag === valueTag.unchanged && old >= 0) {
      for (; oldColumn < column; oldColumn++) oldAt = afterValue(message, oldAt)
      const oldEnd = afterValue(message, oldAt)
      // A partition whose own identity is less than FULL sends null here for what it does not know.
      if (message[oldAt] === valueTag.text && size + filled + oldEnd - oldAt <= MAX_FILLED_BYTES) {
        tag = valueTag.text
        start = oldAt + 5
        end = oldEnd
        filled += oldEnd - oldAt
        writer.position = to
        writer.ensure(end - start + (size - at) + (columns - column) * SLACK_PER_COLUMN)
        out = writer.bytes
      }
    }

    if (tag === valueTag.null) {
      out[to++] = branch.null
      continue
    }
    if (tag !== valueTag.text) {
      if (tag !== valueTag.unchanged || (kind !== valueKind.text && kind !== valueKind.bytes))
        malformed(`A column of a tuple holds a value of kind ${tag}, which its type does not allow.`)
      out[to++] = branch.unchanged
      continue
    }

    switch (kind) {
      case valueKind.text:
      case valueKind.uuid:
        out[to++] = branch.value
        to = putBytes(out, to, message, start, end)
        break
      case valueKind.int:
      case valueKind.long:
        out[to++] = branch.value
        to = putInteger(out, to, message, start, end, kind === valueKind.int)
        break
      case valueKind.boolean:
        out[to++] = branch.value
        if (end - start !== 1 || (message[start] !== 0x74 && message[start] !== 0x66)) badValue('boolean')
        out[to++] = message[start] === 0x74 ? 1 : 0
        break
      case valueKind.timestamp:
      case valueKind.timestamptz:
        to = putTimestamp(out, to, message, start, end, kind === valueKind.timestamptz)
        break
      case valueKind.date:
        to = putDate(out, to, message, start, end)
        break
      case valueKind.double:
        out[to++] = branch.value
        to = putDouble(out, to, message, start, end)
        break
      case valueKind.float:
        out[to++] = branch.value
        to = putFloat(out, to, message, start, end)
        break
      default:
        out[to++] = branch.value
        to = putHex(out, to, message, start, end)
    }
  }
  writer.position = to
  return at
}

/** Offset after the value whose tag stands at `at`. */
function afterValue(message: Buffer, at: number): number {
  if (at >= message.length) endsEarly()
  if (message[at] !== valueTag.text) return at + 1
  if (at + 5 > message.length) endsEarly()
  const length = (message[at + 1] << 24) | (message[at + 2] << 16) | (message[at + 3] << 8) | message[at + 4]
  if (length < 0 || at + 5 + length > message.length) endsEarly()
  return at + 5 + length
}

function putInteger(out: Buffer, to: number, text: Buffer, start: number, end: number, short: boolean): number {
  const negative = text[start] === 0x2d
  let at = negative ? start + 1 : start
  const digits = end - at
  if (digits < 1 || digits > 19) badValue('integer')
  // 15 digits are exact in a double.
  if (digits <= 15) {
    let value = 0
    for (; at < end; at++) value = value * 10 + digit(text[at])
    if (short && value > 0x7fffffff && !(negative && value === 0x80000000)) badValue('integer')
    return putLong(out, to, negative ? -value : value)
  }
  if (short) badValue('integer')
  let leading = 0
  let trailing = 0
  for (; at < end - 9; at++) leading = leading * 10 + digit(text[at])
  for (; at < end; at++) trailing = trailing * 10 + digit(text[at])
  return putProduct(out, to, negative, leading, 1_000_000_000, trailing)
}

/** The long `factor * unit + rest`: factor below 2^43, unit at most 2^30, rest below 2^30; the product is checked to fit. */
function putProduct(out: Buffer, to: number, negative: boolean, factor: number, unit: number, rest: number): number {
  // In base 2^28, with no step above 2^53: factor is taken in two parts, the upper of which counts 2^16.
  const upper = Math.floor(factor / 65_536)
  const upperProduct = upper * unit
  const carried = Math.floor(upperProduct / 4096)
  const sum = (upperProduct - carried * 4096) * 65_536 + (factor - upper * 65_536) * unit + rest
  const overflow = Math.floor(sum / 2 ** 28)
  const high = carried + overflow
  const low = sum - overflow * 2 ** 28
  if (high >= 2 ** 35 && !(negative && high === 2 ** 35 && low === 0)) badValue('64-bit integer')
  return putLongLimbs(out, to, negative, high, low)
}

function putTimestamp(out: Buffer, to: number, text: Buffer, start: number, end: number, zone: boolean): number {
  const micros = plainTimestampMicros(text, start, end, zone)
  if (micros === micros) {
    out[to] = branch.value
    return putLong(out, to + 1, micros)
  }
  return putRareTimestamp(out, to, text, start, end, zone)
}

/** Years before 1 and after 2112, infinity, and years whose microseconds do not fit. */
function putRareTimestamp(out: Buffer, to: number, text: Buffer, start: number, end: number, zone: boolean): number {
  const shown = shortText(text, start, end)
  const micros = parseTimestamp(shown, zone)
  if (micros === undefined && !isInfinity(shown)) badValue(zone ? 'timestamptz in ISO style and UTC' : 'timestamp in ISO style')
  if (micros === undefined || micros !== BigInt.asIntN(64, micros)) return putText(out, to, text, start, end)
  out[to] = branch.value
  const magnitude = micros < 0n ? -micros : micros
  return putLongLimbs(out, to + 1, micros < 0n, Number(magnitude >> 28n), Number(magnitude & 0xfffffffn))
}

function putDate(out: Buffer, to: number, text: Buffer, start: number, end: number): number {
  let days: number | undefined = end - start === 10 ? plainDateDays(text, start) : NaN
  if (days !== days) {
    const shown = shortText(text, start, end)
    days = parseDate(shown)
    if (days === undefined) return isInfinity(shown) ? putText(out, to, text, start, end) : badValue('date in ISO style')
  }
  out[to] = branch.value
  return putLong(out, to + 1, days)
}

function putText(out: Buffer, to: number, text: Buffer, start: number, end: number): number {
  out[to] = branch.text
  return putBytes(out, to + 1, text, start, end)
}

const isInfinity = (text: string): boolean => text === 'infinity' || text === '-infinity'

/** For texts that are short if they are right. */
const shortText = (text: Buffer, start: number, end: number): string => text.toString('latin1', start, Math.min(end, start + 64))

const hexDigits = new Uint8Array(256).fill(255)
for (let value = 0; value < 16; value++) {
  hexDigits[value.toString(16).charCodeAt(0)] = value
  hexDigits[value.toString(16).toUpperCase().charCodeAt(0)] = value
}

/** bytea in hex format: `\x` and two digits per byte. */
function putHex(out: Buffer, to: number, text: Buffer, start: number, end: number): number {
  if ((end - start) % 2 !== 0 || text[start] !== 0x5c || text[start + 1] !== 0x78) badValue('bytea in hex format')
  to = putLong(out, to, (end - start - 2) / 2)
  let all = 0
  for (let at = start + 2; at < end; at += 2) {
    const high = hexDigits[text[at]]
    const low = hexDigits[text[at + 1]]
    all |= high | low
    out[to++] = (high << 4) | low
  }
  if (all > 15) badValue('bytea in hex format')
  return to
}

function digit(byte: number): number {
  const value = byte - 0x30
  if (value >>> 0 > 9) badValue('integer')
  return value
}

function endsEarly(): never {
  return malformed('A tuple in a pgoutput message ends too early.')
}

function badValue(expected: string): never {
  return malformed(`Postgres sent a value that is no ${expected}: the session's DateStyle, TimeZone or bytea_output is not what we set.`)
}

/**
 * Dates and timestamps as Postgres writes them (DateStyle ISO, TimeZone UTC), and as numbers: days and microseconds
 * since 1970-01-01, the counts of Avro's date and timestamp-micros.
 * Sources: https://www.postgresql.org/docs/18/datatype-datetime.html ,
 * https://howardhinnant.github.io/date_algorithms.html (days from civil and back, proleptic Gregorian).
 *
 * Years before 1 are written as `0044-03-15 BC`; 1 BC is the astronomical year 0. Infinity is no number: it is not parsed here.
 */

/** Microseconds from 1970, where Avro counts from, to 2000, where Postgres does. */
export const POSTGRES_EPOCH_MICROS = 946_684_800_000_000
const DAY_SECONDS = 86_400
const MICROS = 1_000_000
const DATE_TEXT = /^(\d{4,7})-(\d\d)-(\d\d)( BC)?$/
const TIMESTAMP_TEXT = /^(\d{4,7}-\d\d-\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(\+00)?( BC)?$/

/** Days since 1970-01-01 of a proleptic Gregorian date; `year` is astronomical (0 is 1 BC). */
export function daysFromCivil(year: number, month: number, day: number): number {
  const y = month <= 2 ? year - 1 : year
  const era = Math.floor(y / 400)
  const yearOfEra = y - era * 400
  const dayOfYear = ((153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 | 0) + day - 1
  const dayOfEra = yearOfEra * 365 + (yearOfEra / 4 | 0) - (yearOfEra / 100 | 0) + dayOfYear
  return era * 146_097 + dayOfEra - 719_468
}

type Civil = { readonly text: string; readonly beforeChrist: boolean }

function civilFromDays(days: number): Civil {
  const shifted = days + 719_468
  const era = Math.floor(shifted / 146_097)
  const dayOfEra = shifted - era * 146_097
  const yearOfEra = ((dayOfEra - (dayOfEra / 1460 | 0) + (dayOfEra / 36_524 | 0) - (dayOfEra / 146_096 | 0)) / 365) | 0
  const dayOfYear = dayOfEra - (365 * yearOfEra + (yearOfEra / 4 | 0) - (yearOfEra / 100 | 0))
  const shiftedMonth = ((5 * dayOfYear + 2) / 153) | 0
  const day = dayOfYear - ((153 * shiftedMonth + 2) / 5 | 0) + 1
  const month = shiftedMonth + (shiftedMonth < 10 ? 3 : -9)
  const year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
  const beforeChrist = year <= 0
  const shown = String(beforeChrist ? 1 - year : year).padStart(4, '0')
  return { text: `${shown}-${two(month)}-${two(day)}`, beforeChrist }
}

const two = (value: number): string => (value < 10 ? `0${value}` : String(value))

/** Prints days since 1970 exactly as Postgres prints that date. */
export function formatDate(days: number): string {
  const { text, beforeChrist } = civilFromDays(days)
  return beforeChrist ? `${text} BC` : text
}

/** Prints microseconds since 1970 exactly as Postgres prints that timestamp; with `zone` as a timestamptz in UTC. */
export function formatTimestamp(micros: bigint, zone: boolean): string {
  let seconds = Number(micros / 1_000_000n)
  let fraction = Number(micros % 1_000_000n)
  if (fraction < 0) {
    fraction += MICROS
    seconds -= 1
  }
  const days = Math.floor(seconds / DAY_SECONDS)
  const ofDay = seconds - days * DAY_SECONDS
  const { text, beforeChrist } = civilFromDays(days)
  const clock = `${two((ofDay / 3600) | 0)}:${two(((ofDay / 60) | 0) % 60)}:${two(ofDay % 60)}`
  const shownFraction = fraction === 0 ? '' : `.${String(fraction).padStart(6, '0').replace(/0+$/, '')}`
  return `${text} ${clock}${shownFraction}${zone ? '+00' : ''}${beforeChrist ? ' BC' : ''}`
}

/** Days since 1970; undefined for infinity and for what is not a date in ISO style. */
export function parseDate(text: string): number | undefined {
  const match = DATE_TEXT.exec(text)
  if (!match) return undefined
  const year = Number(match[1])
  const month = Number(match[2])
  const day = Number(match[3])
  if (year === 0 || month < 1 || month > 12 || day < 1 || day > 31) return undefined
  return daysFromCivil(match[4] === undefined ? year : 1 - year, month, day)
}

/**
 * Microseconds since 1970; undefined for infinity and for what is not a timestamp (with `zone`: a timestamptz in UTC) in ISO style.
 * Postgres's last years go beyond what 64 bits hold when counted from 1970: the caller checks the range.
 */
export function parseTimestamp(text: string, zone: boolean): bigint | undefined {
  const match = TIMESTAMP_TEXT.exec(text)
  if (!match || (match[6] !== undefined) !== zone) return undefined
  const days = parseDate(match[7] === undefined ? match[1] : `${match[1]} BC`)
  const hour = Number(match[2])
  const minute = Number(match[3])
  const second = Number(match[4])
  if (days === undefined || hour > 23 || minute > 59 || second > 59) return undefined
  const seconds = days * DAY_SECONDS + hour * 3600 + minute * 60 + second
  return BigInt(seconds) * 1_000_000n + BigInt((match[5] ?? '').padEnd(6, '0'))
}

const digit = (bytes: Uint8Array, at: number): number => {
  const value = bytes[at] - 0x30
  return value >= 0 && value <= 9 ? value : NaN
}
const twoDigits = (bytes: Uint8Array, at: number): number => digit(bytes, at) * 10 + digit(bytes, at + 1)

/**
 * Days since 1970 of the text `YYYY-MM-DD` at `at`. NaN for every other text: the caller then asks `parseDate`.
 * For the hot path: allocates nothing.
 */
export function plainDateDays(bytes: Uint8Array, at: number): number {
  if (bytes[at + 4] !== 0x2d || bytes[at + 7] !== 0x2d) return NaN
  const year = twoDigits(bytes, at) * 100 + twoDigits(bytes, at + 2)
  const month = twoDigits(bytes, at + 5)
  const day = twoDigits(bytes, at + 8)
  if (!(year >= 1 && month >= 1 && month <= 12 && day >= 1 && day <= 31)) return NaN
  return daysFromCivil(year, month, day)
}

/**
 * Microseconds since 1970 of `YYYY-MM-DD HH:MM:SS[.ffffff]`, with `zone` followed by `+00`, from `start` to `end`. NaN for every
 * other text, and where the count is not exact in a double: the caller then asks `parseTimestamp`.
 * For the hot path: allocates nothing.
 */
export function plainTimestampMicros(bytes: Uint8Array, start: number, end: number, zone: boolean): number {
  let last = end
  if (zone) {
    last -= 3
    if (bytes[last] !== 0x2b || bytes[last + 1] !== 0x30 || bytes[last + 2] !== 0x30) return NaN
  }
  const length = last - start
  if (length < 19 || length > 26 || length === 20) return NaN
  if (bytes[start + 10] !== 0x20 || bytes[start + 13] !== 0x3a || bytes[start + 16] !== 0x3a) return NaN
  const hour = twoDigits(bytes, start + 11)
  const minute = twoDigits(bytes, start + 14)
  const second = twoDigits(bytes, start + 17)
  if (!(hour < 24 && minute < 60 && second < 60)) return NaN
  let fraction = 0
  if (length > 19) {
    if (bytes[start + 19] !== 0x2e) return NaN
    for (let at = start + 20; at < start + 26; at++) fraction = fraction * 10 + (at < last ? digit(bytes, at) : 0)
  }
  const seconds = plainDateDays(bytes, start) * DAY_SECONDS + hour * 3600 + minute * 60 + second
  const micros = seconds * MICROS + fraction
  return micros > -(2 ** 52) && micros < 2 ** 52 ? micros : NaN
}

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { daysFromCivil, formatDate, formatTimestamp, parseDate, parseTimestamp, plainDateDays,
  plainTimestampMicros } from '../../src/transport/postgres-time.ts'

/** Texts as Postgres 18 prints them, with `extract(epoch …)` in microseconds; test/decode/values.pg.test.ts asks a server. */
const timestamps: readonly (readonly [string, bigint])[] = [
  ['1970-01-01 00:00:00', 0n],
  ['1969-12-31 23:59:59.999999', -1n],
  ['2000-02-29 12:34:56.78', 951_827_696_780_000n],
  ['9999-12-31 23:59:59.999999', 253_402_300_799_999_999n],
  ['10000-01-01 00:00:00', 253_402_300_800_000_000n],
  ['0001-01-01 00:00:00', -62_135_596_800_000_000n],
  ['0001-12-31 23:59:59.5 BC', -62_135_596_800_500_000n],
  ['4714-11-24 00:00:00 BC', -210_866_803_200_000_000n],
  ['294276-12-31 23:59:59.999999', 9_224_318_015_999_999_999n],
]

test('known timestamps, both ways, with and without zone', () => {
  for (const [text, micros] of timestamps) {
    const zoned = text.endsWith(' BC') ? `${text.slice(0, -3)}+00 BC` : `${text}+00`
    assert.equal(parseTimestamp(text, false), micros, text)
    assert.equal(parseTimestamp(zoned, true), micros, zoned)
    assert.equal(formatTimestamp(micros, false), text)
    assert.equal(formatTimestamp(micros, true), zoned)
    assert.equal(parseTimestamp(text, true), undefined)
    assert.equal(parseTimestamp(zoned, false), undefined)
  }
})

test('known dates, both ways', () => {
  for (const [text, days] of [['1970-01-01', 0], ['2000-02-29', 11_016], ['0001-12-31 BC', -719_163], ['4714-11-24 BC', -2_440_588],
    ['5874897-12-31', 2_145_042_905]] as const) {
    assert.equal(parseDate(text), days, text)
    assert.equal(formatDate(days), text)
  }
})

test('days agree with the calendar of JavaScript', () => {
  fc.assert(
    fc.property(fc.integer({ min: -100_000_000, max: 100_000_000 }), (days) => {
      const date = new Date(days * 86_400_000)
      assert.equal(daysFromCivil(date.getUTCFullYear(), date.getUTCMonth() + 1, date.getUTCDate()), days)
      assert.equal(parseDate(formatDate(days)), days)
    }),
  )
})

test('every timestamp comes back, and the quick reader agrees or passes', () => {
  const postgresRange = fc.bigInt({ min: -210_866_803_200_000_000n, max: 9_224_318_015_999_999_999n })
  const ourTimes = fc.bigInt({ min: -(2n ** 52n), max: 2n ** 52n })
  fc.assert(
    fc.property(fc.oneof(postgresRange, ourTimes), fc.boolean(), fc.constantFrom(1n, 1000n, 1_000_000n, 86_400_000_000n), (value, zone,
      unit) => {
      const micros = (value / unit) * unit
      const text = formatTimestamp(micros, zone)
      assert.equal(parseTimestamp(text, zone), micros, text)
      const bytes = Buffer.from(`..${text}.`)
      const quick = plainTimestampMicros(bytes, 2, bytes.length - 1, zone)
      if (micros > -62_135_596_800_000_000n && micros > -(2n ** 52n) && micros < 2n ** 52n) assert.equal(BigInt(quick), micros, text)
      else assert.ok(Number.isNaN(quick), text)
    }),
  )
})

test('the quick readers take nothing that is not plain', () => {
  const timestamp = (text: string, zone = false) => plainTimestampMicros(Buffer.from(text), 0, text.length, zone)
  for (const text of ['', 'infinity', '2026-01-02', '2026-01-02 03:04', '2026-01-02T03:04:05', '2026-01-02 03:04:05.',
    '2026-01-02 03:04:05.1234567', '2026-13-02 03:04:05', '2026-01-02 24:00:00', '2026-01-02 03:04:05,5', '2026-01-02 03:04:05+00',
    '02/01/2026 03:04:05', '2026-01-02 03:0x:05', '12026-01-02 03:04:05'])
    assert.ok(Number.isNaN(timestamp(text)), text)
  for (const text of ['2026-01-02 03:04:05', '2026-01-02 03:04:05+02', '2026-01-02 03:04:05-00', '2026-01-02 03:04:05+00:30',
    '2026-01-02 03:04:05+00 BC'])
    assert.ok(Number.isNaN(timestamp(text, true)), text)
  for (const text of ['2026-00-10', '2026-10-32', '0000-01-01', '2026/01/01', '-infinity-',
    'x026-01-01']) assert.ok(Number.isNaN(plainDateDays(Buffer.from(text), 0)), text)
  assert.equal(plainDateDays(Buffer.from('x2026-01-02'), 1), daysFromCivil(2026, 1, 2))
})

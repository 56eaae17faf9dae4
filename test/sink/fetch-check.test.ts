import assert from 'node:assert/strict'
import { test } from 'node:test'
import { SegmentCheck } from '../../src/sink/fetch-check.ts'
import { Random, testSeed } from '../support/random.ts'
import { sha256 } from './fake-sink.ts'
import { fakeSegment, SEGMENT_BYTES, SYSTEM_ID } from './fake-wal.ts'

const NAME = '000000010000000000000003'
const whole = fakeSegment(3n)

function check(bytes: Buffer, { name = NAME, length = SEGMENT_BYTES, systemId = undefined as bigint | undefined, digest = undefined as string | undefined } = {}, random?: Random): void {
  const checker = new SegmentCheck({ name, bytes: length, systemId, sha256: digest })
  for (let at = 0; at < bytes.length; ) {
    const step = random ? random.integer(1, 20_000) : bytes.length
    checker.push(bytes.subarray(at, at + step))
    at += step
  }
  checker.finish()
}

function changed(change: (bytes: Buffer) => void, base = whole): Buffer {
  const copy = Buffer.from(base)
  change(copy)
  return copy
}

test(`right segments pass however they are cut (seed ${testSeed})`, () => {
  const random = new Random(testSeed)
  for (const segment of [whole, fakeSegment(3n, { pages: 1 }), fakeSegment(3n, { pages: 127 })])
    for (let round = 0; round < 10; round++) check(segment, { systemId: SYSTEM_ID, digest: sha256(segment) }, random)
})

test('wrong ones are told, however they are cut', () => {
  const random = new Random(testSeed)
  const cases: [RegExp, Buffer, Parameters<typeof check>[1]?][] = [
    [/has 1048575 of/, whole.subarray(0, -1)],
    [/has 0 of/, Buffer.alloc(0)],
    [/longer than/, Buffer.concat([whole, Buffer.alloc(1)])],
    [/can't have 1000 bytes/, whole, { length: 1000 }],
    [/can't have/, whole, { length: 3 * 1024 * 1024 }],
    [/\(segment-size\)/, Buffer.concat([whole, Buffer.alloc(SEGMENT_BYTES)]), { length: 2 * SEGMENT_BYTES, name: '000000010000000000000001' }],
    [/can't have/, whole, { name: 'nonsense' }],
    [/\(address\)/, fakeSegment(4n)],
    [/\(address\)/, changed((bytes) => bytes.writeBigUInt64LE(1n, 5 * 8192 + 8))],
    [/\(timeline\)/, fakeSegment(3n, { timeline: 2 })],
    [/\(magic\)/, changed((bytes) => bytes.writeUInt16LE(1, 7 * 8192))],
    [/\(system-id\)/, whole, { systemId: 1n }],
    [/checksum/, changed((bytes) => bytes.writeUInt8(bytes[999_999] ^ 1, 999_999)), { digest: sha256(whole) }],
    [/header of a segment/, Buffer.alloc(SEGMENT_BYTES)],
    [/goes on after its end/, changed((bytes) => bytes.writeUInt8(1, 900_000), fakeSegment(3n, { pages: 5 }))],
  ]
  for (const [message, bytes, options] of cases) {
    assert.throws(() => check(bytes, options), { code: 'WAL_CORRUPT', message })
    assert.throws(() => check(bytes, options, random), { code: 'WAL_CORRUPT', message })
  }
})

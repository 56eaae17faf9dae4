import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { AvroWriter, MAX_VARINT_BYTES, putBytes, putInt64, putLong, putString } from '../../src/decode/avro-writer.ts'
import { bigintLong } from '../../src/transport/envelopes.ts'
import { typeOf } from './decoded-batch.ts'

const MIN = -(2n ** 63n)
const MAX = 2n ** 63n - 1n
/** Around every power of two, where carries and varint lengths change. */
const edges = Array.from({ length: 64 }, (_, bit) => 2n ** BigInt(bit)).flatMap((power) => [power - 1n, power, power + 1n, -power - 1n,
  -power, 1n - power]).filter((value) => value >= MIN && value <= MAX)

const written = (put: (out: Buffer) => number): string => {
  const out = Buffer.alloc(MAX_VARINT_BYTES)
  return out.subarray(0, put(out)).toString('hex')
}
const oracle = (value: bigint): string => bigintLong.toBuffer(value).toString('hex')
const int64 = (value: bigint): string =>
  written((out) => putInt64(out, 0, Number(BigInt.asIntN(32, value >> 32n)), Number(BigInt.asIntN(32, value))))

test('64-bit numbers are written as avsc writes them', () => {
  for (const value of edges) assert.equal(int64(value), oracle(value), String(value))
  fc.assert(fc.property(fc.bigInt({ min: MIN, max: MAX }), (value) => assert.equal(int64(value), oracle(value))))
})

test('numbers below 2^52 are written as avsc writes them', () => {
  const check = (value: number) => assert.equal(written((out) => putLong(out, 0, value)), oracle(BigInt(value)), String(value))
  for (const value of edges) if (value > -(2n ** 52n) && value < 2n ** 52n) check(Number(value))
  fc.assert(fc.property(fc.integer({ min: -(2 ** 52) + 1, max: 2 ** 52 - 1 }), check))
})

test('bytes and strings of any length', () => {
  const type = typeOf('string')
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 300 }), (text) => {
      const out = Buffer.alloc(4 * text.length + 100)
      assert.equal(type.fromBuffer(out.subarray(0, putString(out, 0, text))), text)
      const source = Buffer.from(`..${text}.`)
      assert.equal(type.fromBuffer(out.subarray(7, putBytes(out, 7, source, 2, source.length - 1))), text)
    }),
  )
})

test('a writer keeps what it holds when it grows, and takes no more than twice what is needed', () => {
  const writer = new AvroWriter(16)
  for (let i = 0; i < 1000; i++) {
    writer.ensure(4)
    writer.bytes.writeUInt32BE(i, writer.position)
    writer.position += 4
  }
  assert.ok(writer.bytes.length <= 8192)
  for (let i = 0; i < 1000; i++) assert.equal(writer.bytes.readUInt32BE(i * 4), i)
  writer.ensure(100_000)
  assert.equal(writer.bytes.length, 104_000)
})

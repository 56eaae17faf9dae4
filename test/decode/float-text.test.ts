import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { putDouble, putFloat } from '../../src/decode/float-text.ts'

const out = Buffer.alloc(8)
const double = (text: string): number => {
  assert.equal(putDouble(out, 0, Buffer.from(`..${text}.`), 2, 2 + text.length), 8)
  return out.readDoubleLE(0)
}
const float = (text: string): number => {
  assert.equal(putFloat(out, 0, Buffer.from(`..${text}.`), 2, 2 + text.length), 4)
  return out.readFloatLE(0)
}

test('plain and special texts', () => {
  for (const text of ['0', '-0', '1', '-1.5', '0.1', '123456789012345', '0.30000000000000004', '1e+20', '5e-324',
    '1.7976931348623157e+308', 'Infinity', '-Infinity', 'NaN'])
    assert.ok(Object.is(double(text), Number(text)), text)
  for (const text of ['-0', '1.1754944e-38', '1e-45', '3.4028235e+38', '16777217', '0.1', 'NaN',
    '-Infinity']) assert.ok(Object.is(float(text), Math.fround(Number(text))), text)
})

test('every decimal is read as the nearest double', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 10n ** 19n }), fc.nat({ max: 19 }), fc.boolean(), (digits, decimals, negative) => {
      const padded = String(digits).padStart(decimals + 1, '0')
      const text = `${negative ? '-' : ''}${decimals === 0 ? padded : `${padded.slice(0, -decimals)}.${padded.slice(-decimals)}`}`
      assert.ok(Object.is(double(text), Number(text)), text)
    }),
  )
})

test('a float is not rounded twice', () => {
  const next = 1 + 2 ** -23
  assert.equal(float('1.000000059604644775390625'), 1, 'exactly between: to even')
  assert.equal(float('1.000000059604644775390625001'), next)
  assert.equal(float('1.000000059604644775390624999'), 1)
  assert.equal(float('-1.000000059604644775390625001'), -next)
  const after = 1 + 2 ** -22
  assert.equal(float('1.000000178813934326171875'), after, 'exactly between: to even')
  assert.equal(float('1.000000178813934326171874999'), next)
  // Around half of the smallest subnormal, 7.006492321624085354618647916…e-46.
  assert.equal(float('7.0064923216240853546186479e-46'), 0)
  assert.equal(float('7.0064923216240853546186480e-46'), 2 ** -149)
})

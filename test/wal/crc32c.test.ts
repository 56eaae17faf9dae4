/** CRC-32C against the vectors of RFC 3720, appendix B.4, and against itself in pieces. */
import assert from 'node:assert/strict'
import { it } from 'node:test'
import fc from 'fast-check'
import { crc32cFinish, crc32cUpdate, CRC32C_INIT } from '../../src/wal/crc32c.ts'

const crc = (bytes: Uint8Array): number => crc32cFinish(crc32cUpdate(CRC32C_INIT, bytes, 0, bytes.length))

it('gives the published values', () => {
  const rising = Uint8Array.from({ length: 32 }, (_, i) => i)
  assert.equal(crc(new Uint8Array(32)), 0x8a9136aa)
  assert.equal(crc(new Uint8Array(32).fill(0xff)), 0x62a8ab43)
  assert.equal(crc(rising), 0x46dd794e)
  assert.equal(crc(rising.toReversed()), 0x113fdb5c)
  assert.equal(crc(Buffer.from('123456789')), 0xe3069283)
  assert.equal(crc(new Uint8Array(0)), 0)
})

it('is the same in two pieces, wherever they part', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(200), (bytes, cut) => {
      const at = Math.min(cut, bytes.length)
      const first = crc32cUpdate(CRC32C_INIT, bytes, 0, at)
      assert.equal(crc32cFinish(crc32cUpdate(first, bytes, at, bytes.length)), crc(bytes))
    }),
  )
})

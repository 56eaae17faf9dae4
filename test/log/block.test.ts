import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { addToChecksum, blockLengths, BLOCK_HEADER_BYTES, decodeBlockHeader, encodeBlockHeader, payloadChecksum, type BlockHeader } from '../../src/log/block.ts'
import { decodeSegmentHeader, encodeSegmentHeader, parseSegmentName, SEGMENT_HEADER_BYTES, segmentName } from '../../src/log/segment.ts'
import { toLsn } from '../../src/wal/lsn.ts'

const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000_000)

const header: Omit<BlockHeader, 'payloadLength'> = {
  kind: 'data',
  beginsInside: false,
  endsInside: false,
  transactions: 2,
  changes: 3,
  lsn: toLsn(0x16b374d848n),
  endLsn: toLsn(0x16b374d880n),
  time: 1_700_000_000_000_001n,
  chain: Buffer.from(Array.from({ length: 32 }, (_, i) => i)),
  fingerprints: [0x1122334455667788n, 0xffeeddccbbaa9988n],
}
const payload = Buffer.from('0000000512010203040000000117', 'hex')

const GOLDEN = [
  '424c4b31', // magic
  'c459b433', // checksum of the header
  '0e000000', // payload length
  '637b58e6', // checksum of the payload
  '01000200', // data, whole transactions, two fingerprints
  '0200000003000000', // transactions, changes
  '48d874b316000000', // LSN
  '80d874b316000000', // end LSN
  '01401e18240a0600', // time
  '000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f', // chain
  '88776655443322118899aabbccddeeff', // fingerprints
].join('')
/** LSN to chain: the same in blocks and segment headers. */
const BASE = GOLDEN.slice(56, 168)

test('a data block has these bytes', () => {
  const bytes = encodeBlockHeader(header, payload)
  assert.equal(bytes.toString('hex'), GOLDEN)
  assert.deepEqual(blockLengths(bytes), { header: BLOCK_HEADER_BYTES + 16, payload: payload.length })
  assert.deepEqual(decodeBlockHeader(bytes), { ...header, payloadLength: payload.length })
  assert.equal(payloadChecksum(bytes), addToChecksum(0, payload))
})

test('a mark has these bytes', () => {
  const bytes = encodeBlockHeader({ ...header, kind: 'mark', transactions: 0, changes: 0, fingerprints: [] }, Buffer.alloc(0))
  assert.equal(
    bytes.toString('hex'),
    `424c4b3125458abe${'0'.repeat(16)}02${'0'.repeat(22)}${BASE}`,
  )
})

test('a segment header has these bytes', () => {
  const { lsn, endLsn, time, chain } = header
  const history = Buffer.from('0a0b0c0d0102430485060708090a0b0c', 'hex')
  const value = { history, base: { lsn, endLsn, time, chain }, reached: toLsn(0x16b374d900n) }
  const bytes = encodeSegmentHeader(value)
  assert.equal(
    bytes.toString('hex'),
    `${Buffer.from('BPGLOG01').toString('hex')}4f0ce627${history.toString('hex')}${BASE}00d974b31600000000000000`,
  )
  assert.equal(bytes.length, SEGMENT_HEADER_BYTES)
  assert.deepEqual(decodeSegmentHeader(bytes), value)
  assert.equal(segmentName(value.reached), '00000016b374d900.log')
  assert.equal(parseSegmentName('00000016b374d900.log'), value.reached)
  assert.equal(parseSegmentName('00000016b374d900.log.new'), undefined)
})

const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })
const headers = fc.record({
  kind: fc.constantFrom('data' as const, 'mark' as const),
  beginsInside: fc.boolean(),
  endsInside: fc.boolean(),
  transactions: fc.nat(),
  changes: fc.nat(),
  lsn: u64.map(toLsn),
  endLsn: u64.map(toLsn),
  time: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  chain: fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes)),
  fingerprints: fc.array(u64, { maxLength: 5 }),
})

describe(`any block (seed ${seed})`, () => {
  test('decode after encode is identity', () => {
    fc.assert(
      fc.property(headers, fc.uint8Array({ maxLength: 50 }), (value, bytes) => {
        assert.deepEqual(decodeBlockHeader(encodeBlockHeader(value, bytes)), { ...value, payloadLength: bytes.length })
      }),
      { seed },
    )
  })

  test('any changed bit is noticed', () => {
    fc.assert(
      fc.property(headers, fc.nat(), fc.integer({ min: 0, max: 7 }), (value, at, bit) => {
        const bytes = encodeBlockHeader(value, payload)
        bytes[at % bytes.length] ^= 1 << bit
        const lengths = blockLengths(bytes)
        assert.ok(!lengths || lengths.header !== bytes.length || !decodeBlockHeader(bytes))
      }),
      { seed },
    )
  })
})

test('any changed bit of a segment header is noticed', () => {
  const { lsn, endLsn, time, chain } = header
  for (let bit = 0; bit < SEGMENT_HEADER_BYTES * 8; bit++) {
    const bytes = encodeSegmentHeader({ history: Buffer.alloc(16, 1), base: { lsn, endLsn, time, chain }, reached: endLsn })
    bytes[bit >> 3] ^= 1 << (bit & 7)
    assert.equal(decodeSegmentHeader(bytes), undefined)
  }
})

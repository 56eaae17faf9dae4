import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { encodeFrame, FrameReader, frameType, type FrameType } from '../../src/transport/frame.ts'
import { testSeed } from '../support/random.ts'

const frames = fc.array(fc.record({ type: fc.nat(255), body: fc.uint8Array({ maxLength: 200 }) }), { maxLength: 20 })
const bytesOf = (list: readonly { type: number; body: Uint8Array }[]) => Buffer.concat(list.map(({ type, body }) => encodeFrame(type as FrameType, body)))

function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const ends = [...new Set(places.map((place) => place % (bytes.length + 1))), bytes.length].sort((a, b) => a - b)
  return ends.map((end, i) => bytes.subarray(i === 0 ? 0 : ends[i - 1], end))
}

describe(`frames (seed ${testSeed})`, () => {
  it('are read as they were written, however the bytes are cut', () => {
    fc.assert(
      fc.property(frames, fc.array(fc.nat(5_000)), (list, places) => {
        const reader = new FrameReader(1_000)
        const read: { type: number; body: Uint8Array }[] = []
        // The chunk's memory is the caller's, and is used again.
        const chunk = Buffer.alloc(8_000)
        for (const part of cut(bytesOf(list), places)) {
          part.copy(chunk)
          reader.push(chunk.subarray(0, part.length), ({ type, body }) => read.push({ type, body: Uint8Array.from(body) }))
          chunk.fill(0xee)
        }
        assert.deepEqual(read, list.map(({ type, body }) => ({ type, body: Uint8Array.from(body) })))
        assert.equal(reader.pendingBytes, 0)
      }),
      { seed: testSeed, numRuns: 300 },
    )
  })

  it('that were cut off leave their bytes pending', () => {
    const reader = new FrameReader(100)
    const frame = encodeFrame(frameType.ack, Buffer.alloc(10))
    reader.push(frame.subarray(0, 3), () => assert.fail())
    assert.equal(reader.pendingBytes, 3)
    reader.push(frame.subarray(3, 9), () => assert.fail())
    assert.equal(reader.pendingBytes, 9)
    let seen = 0
    reader.push(frame.subarray(9), () => seen++)
    assert.deepEqual([seen, reader.pendingBytes], [1, 0])
  })

  for (const length of [0, 101, 0xffffffff])
    it(`that announce ${length} bytes are refused as soon as that is known`, () => {
      const header = Buffer.alloc(4)
      header.writeUInt32BE(length)
      const reader = new FrameReader(100)
      for (const byte of header.subarray(0, 3)) reader.push(Buffer.from([byte]), () => assert.fail())
      assert.throws(() => reader.push(header.subarray(3), () => assert.fail()), { code: 'PROTOCOL_VIOLATION' })
    })

  it('of the greatest length are read', () => {
    let seen = 0
    new FrameReader(100).push(encodeFrame(frameType.ack, Buffer.alloc(99)), ({ body }) => (seen = body.length))
    assert.equal(seen, 99)
  })

  it('any bytes whatsoever give frames or PROTOCOL_VIOLATION', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.array(fc.nat(300)), (bytes, places) => {
        const reader = new FrameReader(64)
        try {
          for (const part of cut(Buffer.from(bytes), places)) reader.push(part, ({ body }) => assert.ok(body.length < 64))
          assert.ok(reader.pendingBytes <= 68)
        } catch (error) {
          assert.equal((error as { code?: string }).code, 'PROTOCOL_VIOLATION')
        }
      }),
      { seed: testSeed },
    )
  })
})

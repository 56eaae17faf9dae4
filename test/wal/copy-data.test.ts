import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { CopyDataReader } from '../../src/wal/copy-data.ts'

function message(type: string, body: Uint8Array): Buffer {
  const bytes = Buffer.alloc(5 + body.length)
  bytes.write(type, 0, 'latin1')
  bytes.writeUInt32BE(4 + body.length, 1)
  bytes.set(body, 5)
  return bytes
}

/** What a reader gives out, in order: payloads of CopyData as `d…`, whole other messages as they are. */
function read(chunks: readonly Buffer[]): string[] {
  const out: string[] = []
  const reader = new CopyDataReader({
    copyData: (payload) => out.push(`d ${payload.toString('hex')}`),
    other: (whole) => out.push(whole.toString('hex')),
  })
  for (const chunk of chunks) {
    // As a socket does: one buffer, written over by the next read.
    const reused = Buffer.from(chunk)
    reader.push(reused)
    reused.fill(0xff)
  }
  return out
}

test('any cutting of the stream gives the same messages', () => {
  const body = fc.uint8Array({ maxLength: 40 })
  const messages = fc.array(fc.tuple(fc.constantFrom('d', 'd', 'd', 'R', 'W', 'N'), body), { maxLength: 20 })
  fc.assert(
    fc.property(messages, fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1 }), (list, cuts) => {
      const stream = Buffer.concat(list.map(([type, bytes]) => message(type, bytes)))
      const chunks: Buffer[] = []
      for (let at = 0, cut = 0; at < stream.length; cut++) chunks.push(stream.subarray(at, (at += cuts[cut % cuts.length])))
      const expected = list.map(([type, bytes]) => (type === 'd' ? `d ${Buffer.from(bytes).toString('hex')}` : message(type, bytes).toString('hex')))
      assert.deepEqual(read(chunks), expected)
    }),
  )
})

test('a message of megabytes arrives whole, in whatever pieces, and the ones after it too', () => {
  const large = Buffer.alloc(3 * 1024 * 1024, 7)
  const stream = Buffer.concat([message('d', large), message('d', Buffer.from('next'))])
  const chunks = Array.from({ length: Math.ceil(stream.length / 65_536) }, (_, i) => stream.subarray(i * 65_536, (i + 1) * 65_536))
  assert.deepEqual(read(chunks), [`d ${large.toString('hex')}`, `d ${Buffer.from('next').toString('hex')}`])
})

test('a length below its own is refused, in one piece and in several', () => {
  const bad = Buffer.from([0x64, 0, 0, 0, 3, 1, 2])
  assert.throws(() => read([bad]), { code: 'BAD_REPLICATION_DATA' })
  assert.throws(() => read([bad.subarray(0, 2), bad.subarray(2)]), { code: 'BAD_REPLICATION_DATA' })
})

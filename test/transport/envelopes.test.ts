/** Golden bytes: the worked examples of docs/protocol.md, read from there, so that document and code can't part. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { describe, it } from 'node:test'
import avro from 'avsc'
import { ChangeEncoder } from '../../src/decode/change-encoder.ts'
import { bigintLong, envelopes, type From, type Subscribe } from '../../src/transport/envelopes.ts'
import { encodeFrame, FrameReader, frameType } from '../../src/transport/frame.ts'
import { toLsn } from '../../src/wal/lsn.ts'
import * as pgoutput from '../decode/pgoutput-builder.ts'

const document = readFileSync(new URL('../../docs/protocol.md', import.meta.url), 'utf8')

function block(language: string, name: string): string {
  const match = new RegExp(`^\`\`\`${language} ${name}\n([^]*?)^\`\`\``, 'm').exec(document)
  assert.ok(match, `docs/protocol.md has an example ${name}`)
  return match[1]
}

/** Bytes at the beginning of each line, up to two spaces. */
const bytes = (name: string): Buffer => Buffer.from(block('hex', name).split('\n').map((line) => line.split('  ')[0].replaceAll(' ', '')).join(''), 'hex')

const LSN = toLsn(0x16_b374_d848n)
const TIME = 1_763_804_400_123_456n
const history = Buffer.from('0a0b0c0d0102430485060708090a0b0c', 'hex')
const body = (frame: Buffer): Buffer => frame.subarray(5)

describe('the worked examples of the protocol', () => {
  it('a Subscribe', () => {
    const request: Subscribe = { version: 1, client: 'example/1', from: { kind: 'beginning' }, consumer: null, tables: ['public.*'], operations: ['insert', 'delete'] }
    assert.deepEqual(encodeFrame(frameType.subscribe, envelopes.subscribe.encode(request)), bytes('subscribe'))
    assert.deepEqual({ ...envelopes.subscribe.decode(body(bytes('subscribe'))) }, request)
  })

  it('the beginning of a chain', () => {
    assert.deepEqual(createHash('sha256').update(history).digest(), bytes('chain-0'))
  })

  it('a transaction, as it is encoded from what Postgres sends', () => {
    const encoder = new ChangeEncoder(bytes('chain-0'))
    encoder.push(pgoutput.begin(LSN, TIME, 733))
    encoder.push(pgoutput.relation(16_384, 'public', 't', 'default', [{ name: 'id', typeOid: 20, key: true }, { name: 'note', typeOid: 25 }]))
    encoder.push(pgoutput.insert(16_384, [pgoutput.text('42'), pgoutput.text('hello')]))
    encoder.push(pgoutput.commit(LSN, LSN + 48n, TIME))
    assert.deepEqual(encoder.take()!.bytes, bytes('transaction'))
    const [{ schema, fingerprint }] = encoder.takeSchemas()
    assert.equal(schema, block('json', 'schema').trimEnd())
    assert.equal(fingerprint, 0xbc0d083b24d88e32n)
  })

  it('a transaction, as a subscriber reads it', () => {
    const all = bytes('transaction')
    const frames: { type: number; body: Buffer }[] = []
    new FrameReader(1_000).push(all, (frame) => frames.push(frame))
    assert.deepEqual(frames.map(({ type }) => type), [frameType.begin, frameType.change, frameType.commit])
    assert.deepEqual({ ...envelopes.begin.decode(frames[0].body) }, { lsn: LSN, time: TIME, xid: 733n })
    const commit = envelopes.commit.decode(frames[2].body)
    assert.deepEqual([commit.lsn, commit.endLsn, commit.changes], [LSN, LSN + 48n, 1n])
    assert.deepEqual(createHash('sha256').update(bytes('chain-0')).update(all.subarray(0, -32)).digest(), commit.chain)
    const type = avro.Type.forSchema(JSON.parse(block('json', 'schema')) as avro.Schema, { wrapUnions: 'auto', typeHook: (schema: unknown) => (schema === 'long' ? bigintLong : undefined) } as never)
    const { op, before, after } = type.fromBuffer(frames[1].body.subarray(10)) as { op: string; before: unknown; after: { id: bigint; note: string } }
    assert.deepEqual([op, before, after.id, after.note], ['insert', null, 42n, 'hello'])
  })

  it('an Ack', () => {
    const position = { lsn: LSN, chain: bytes('transaction').subarray(-32) }
    assert.deepEqual(encodeFrame(frameType.ack, envelopes.ack.encode({ position })), bytes('ack'))
  })
})

describe('a Subscribe from', () => {
  const position = { lsn: LSN, chain: Buffer.alloc(32, 7) }
  const table: From[] = [
    { kind: 'beginning' },
    { kind: 'now' },
    { kind: 'time', micros: TIME },
    { kind: 'cursor', otherwise: 'now' },
    { kind: 'position', after: position, checkpoints: [position, position] },
    { kind: 'position', after: position, partial: { lsn: toLsn((1n << 63n) - 1n), index: 3n }, checkpoints: [] },
  ]
  for (const from of table)
    it(`${from.kind} comes back as it was`, () => {
      const decoded = envelopes.subscribe.decode(envelopes.subscribe.encode({ version: 1, client: '', from, consumer: 'c', tables: [], operations: [] }))
      assert.equal(decoded.from.kind, from.kind)
      assert.deepEqual(envelopes.subscribe.encode(decoded), envelopes.subscribe.encode({ version: 1, client: '', from, consumer: 'c', tables: [], operations: [] }))
    })
})

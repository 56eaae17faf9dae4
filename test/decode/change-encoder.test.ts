import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { ChangeEncoder, type EncodedBatch, type EncodedTransaction, type NewSchema } from '../../src/decode/change-encoder.ts'
import { decodeMessage, type Relation } from '../../src/decode/pgoutput-message.ts'
import { BeyondError } from '../../src/errors.ts'
import { capturedMessages } from '../fixtures/pg18/messages.ts'
import { stream } from './arbitrary-stream.ts'
import { decodeFrames, SchemaSet } from './decoded-batch.ts'
import * as pgoutput from './pgoutput-builder.ts'
import { expectedChange } from './reference.ts'

const ZERO = Buffer.alloc(32)
const CHAIN_BYTES = 32
const captured = capturedMessages.map(({ message }) => message)

type Encoded = { readonly batches: EncodedBatch[]; readonly schemas: NewSchema[]; readonly bytes: Buffer; readonly transactions: EncodedTransaction[] }

/** Takes a batch after each message whose number `cut` accepts, and at the end. */
function encode(messages: readonly Buffer[], cut: (index: number) => boolean = () => false, chain: Uint8Array = ZERO): Encoded {
  const encoder = new ChangeEncoder(chain)
  const batches: EncodedBatch[] = []
  const schemas: NewSchema[] = []
  for (const [index, message] of messages.entries()) {
    encoder.push(message)
    schemas.push(...encoder.takeSchemas())
    if (!cut(index)) continue
    const batch = encoder.take()
    if (batch) batches.push(batch)
  }
  const last = encoder.take()
  if (last) batches.push(last)
  return { batches, schemas, bytes: Buffer.concat(batches.map(({ bytes }) => bytes)), transactions: batches.flatMap(({ transactions }) =>
    transactions) }
}

/** What the frames must say, from the slow decoder. */
function expectedFrames(messages: readonly Buffer[]): unknown[] {
  const relations = new Map<number, Relation>()
  const frames: { kind: string; value: unknown }[] = []
  let changes = 0n
  const count = (kind: string, value: unknown) => {
    changes++
    frames.push({ kind, value })
  }
  for (const message of messages.map(decodeMessage)) {
    if (message.kind === 'relation') relations.set(message.oid, message)
    if (message.kind === 'begin') {
      changes = 0n
      frames.push({ kind: 'begin', value: { lsn: message.finalLsn, time: message.time, xid: BigInt(message.xid) } })
    }
    if (message.kind === 'commit') frames.push({ kind: 'commit', value: { lsn: message.lsn, endLsn: message.endLsn, changes } })
    if (message.kind === 'insert' || message.kind === 'update' || message.kind === 'delete') count('change', expectedChange(message,
      relations.get(message.relationOid)!))
    if (message.kind === 'truncate') {
      const { cascade, restartIdentity } = message
      count('truncate', { relations: message.relationOids.map((oid) => ({ schema: relations.get(oid)!.schema,
        table: relations.get(oid)!.table })), cascade, restartIdentity })
    }
    if (message.kind === 'message') {
      const { lsn, transactional, prefix, content } = message
      if (!transactional) {
        changes = 0n
        frames.push({ kind: 'begin', value: { lsn: lsn - 1n, time: 0n, xid: 0n } })
      }
      count('message', { lsn, transactional, prefix, content: content.toString('hex') })
      if (!transactional) frames.push({ kind: 'commit', value: { lsn: lsn - 1n, endLsn: lsn, changes: 1n } })
    }
  }
  return frames
}

/** Kind and value of each frame, the chain apart: `checkChain` sees to that. */
function frames({ bytes, schemas }: Encoded): unknown[] {
  return decodeFrames(bytes, new SchemaSet().add(schemas)).map(({ kind, value }) => {
    const { chain: _, ...rest } = value as { chain?: unknown }
    return { kind, value: kind === 'commit' ? rest : value }
  })
}

function checkChain({ batches, bytes, transactions }: Encoded, chain: Uint8Array = ZERO): void {
  let expected = Buffer.from(chain)
  let offset = 0
  let before = 0
  for (const batch of batches) {
    let end = 0
    for (const transaction of batch.transactions) {
      // One that began in an earlier batch starts at 0; otherwise transactions stand one after another.
      assert.equal(transaction.offset, end)
      end = transaction.offset + transaction.length
      const whole = bytes.subarray(offset, before + end)
      expected = createHash('sha256').update(expected).update(whole.subarray(0, -CHAIN_BYTES)).digest()
      assert.deepEqual(whole.subarray(-CHAIN_BYTES), expected)
      assert.deepEqual(Buffer.from(transaction.chain), expected)
      offset = before + end
    }
    assert.equal(batch.open, end !== batch.bytes.length)
    before += batch.bytes.length
  }
  assert.equal(transactions.reduce((sum, { changes }) => sum + changes, 0), batches.reduce((sum, { changes }) => sum + changes, 0))
}

/** Each batch names the fingerprints of exactly the changes that it holds. */
function checkFingerprints({ batches, schemas }: Encoded): void {
  const set = new SchemaSet().add(schemas)
  for (const batch of batches) {
    const used = decodeFrames(batch.bytes, set).flatMap(({ fingerprint }) => (fingerprint === undefined ? [] : [fingerprint]))
    assert.deepEqual([...batch.fingerprints].sort(), [...new Set(used)].sort())
  }
}

function refuses(messages: readonly Buffer[], about: RegExp): void {
  assert.throws(() => encode(messages), (error) => error instanceof BeyondError && error.code === 'BAD_REPLICATION_DATA'
    && about.test(error.message), String(about))
}

test('every captured message comes out as the slow decoder has it', () => {
  const encoded = encode(captured)
  assert.deepStrictEqual(frames(encoded), expectedFrames(captured))
  checkChain(encoded)
  checkFingerprints(encoded)
  assert.equal(encoded.batches.length, 1)
  // plain twice, since a column was added; keyless is sent three times and is one version.
  assert.equal(encoded.schemas.length, 9)
})

test('positions only ever rise, also those of messages outside of transactions', () => {
  const { transactions } = encode(captured)
  for (const [i, { lsn, endLsn }] of transactions.entries()) {
    assert.ok(endLsn > lsn)
    if (i > 0) assert.ok(lsn >= transactions[i - 1]!.endLsn - 1n && lsn > transactions[i - 1]!.lsn)
  }
})

test('any stream comes out as the slow decoder has it, however it is cut into batches', () => {
  fc.assert(
    fc.property(stream, fc.array(fc.boolean(), { minLength: 1, maxLength: 40 }), fc.uint8Array({ minLength: 32, maxLength: 32 }),
      (messages, cuts, chain) => {
      const whole = encode(messages, () => false, chain)
      assert.deepStrictEqual(frames(whole), expectedFrames(messages))
      checkChain(whole, chain)
      const pieces = encode(messages, (index) => cuts[index % cuts.length]!, chain)
      assert.deepEqual(pieces.bytes, whole.bytes)
      checkChain(pieces, chain)
      checkFingerprints(pieces)
      assert.deepEqual(pieces.transactions.map(({ chain: hash }) => hash), whole.transactions.map(({ chain: hash }) => hash))
      assert.deepEqual(
        pieces.transactions.map(({ lsn, endLsn, xid, time, changes }) => ({ lsn, endLsn, xid, time, changes })),
        whole.transactions.map(({ lsn, endLsn, xid, time, changes }) => ({ lsn, endLsn, xid, time, changes })),
      )
    }),
    { numRuns: 200 },
  )
})

test('a batch is not touched by what follows it', () => {
  const encoder = new ChangeEncoder(ZERO)
  const taken: { batch: EncodedBatch; copy: Buffer }[] = []
  for (let round = 0; round < 20; round++) {
    for (const message of captured) encoder.push(message)
    if (round % 3 === 0) for (const message of captured) encoder.push(message)
    const batch = encoder.take()!
    taken.push({ batch, copy: Buffer.from(batch.bytes) })
  }
  for (const { batch, copy } of taken) assert.deepEqual(batch.bytes, copy)
  assert.equal(encoder.take(), undefined)
  assert.equal(encoder.pendingBytes, 0)
})

test('a small batch does not hold a large buffer', () => {
  const encoder = new ChangeEncoder(ZERO)
  const sizes = [1, 4000, 1, 2, 100_000, 1]
  for (const rows of sizes) {
    encoder.push(pgoutput.begin(100n, 0n, 1))
    for (let row = 0; row < rows; row++) encoder.push(pgoutput.message(50n, true, 'p', Buffer.alloc(64)))
    encoder.push(pgoutput.commit(100n, 108n, 0n))
    const pending = encoder.pendingBytes
    const { bytes } = encoder.take()!
    assert.equal(bytes.length, pending)
    assert.ok(bytes.buffer.byteLength <= 4 * bytes.length + CHAIN_BYTES, `${bytes.length} bytes hold ${bytes.buffer.byteLength}`)
  }
})

test('values of many megabytes, unchanged ones filled in', () => {
  const big = Buffer.alloc(16 << 20, 'x')
  const relation = pgoutput.relation(1, 's', 't', 'full', [{ name: 'a', typeOid: 25, key: true }, { name: 'b', typeOid: 17, key: true },
    { name: 'c', typeOid: 23, key: true }])
  const hex = Buffer.concat([Buffer.from('\\x'), Buffer.alloc(8 << 20, 'ab')])
  const old = [pgoutput.text(big), pgoutput.text(hex), pgoutput.text('1')]
  const encoded = encode([
    relation, pgoutput.begin(8n, 0n, 1), pgoutput.update(1, { kind: 'O', values: old }, ['unchanged', 'unchanged', pgoutput.text('2')]),
      pgoutput.commit(8n, 16n, 0n),
  ])
  const value = frames(encoded)[1] as { value: { before: { Row: object }; after: { Row: { a: { string: string } } } } }
  assert.equal(value.value.after.Row.a.string.length, big.length)
  assert.deepEqual(value.value.after.Row, { ...value.value.before.Row, c: { int: 2 } })
  checkChain(encoded)
})

test('1,600 columns', () => {
  const columns = Array.from({ length: 1600 }, (_, i) => ({ name: `c${i}`, typeOid: [20, 701, 1184, 25][i % 4]!, key: i === 0 }))
  const texts = ['9', '1', '2026-01-01 00:00:00+00', '']
  const values = columns.map((_, i) => pgoutput.text(texts[i % 4]!))
  const messages = [
    pgoutput.relation(9, 's', 'wide', 'default', columns), pgoutput.begin(8n, 0n, 1), pgoutput.insert(9, values),
    pgoutput.update(9, { kind: 'K', values: values.map((value, i) => (i === 0 ? value : null)) }, values), pgoutput.commit(8n, 16n, 0n),
  ]
  assert.deepStrictEqual(frames(encode(messages)), expectedFrames(messages))
})

test('a leaf partition that knows less than FULL leaves a value unchanged rather than null', () => {
  const relation = pgoutput.relation(1, 's', 't', 'full', [{ name: 'id', typeOid: 23, key: true }, { name: 'big', typeOid: 25, key: true }])
  const messages = [
    relation, pgoutput.begin(8n, 0n, 1), pgoutput.update(1, { kind: 'O', values: [pgoutput.text('1'), null] }, [pgoutput.text('2'),
      'unchanged']), pgoutput.commit(8n, 16n, 0n),
  ]
  const update = frames(encode(messages))[1] as { value: { after: unknown } }
  assert.deepEqual(update.value.after, { Row: { id: { int: 2 }, big: { 'dev.beyond.cdc.Unchanged': {} } } })
})

test('a transaction without changes is a Begin and a Commit', () => {
  const encoded = encode([pgoutput.begin(0x1_0000_0000n, 5n, 4_000_000_000), pgoutput.commit(0x1_0000_0000n, 0x1_0000_0030n, 5n)])
  assert.deepEqual(frames(encoded), [
    { kind: 'begin', value: { lsn: 0x1_0000_0000n, time: 5n, xid: 4_000_000_000n } },
    { kind: 'commit', value: { lsn: 0x1_0000_0000n, endLsn: 0x1_0000_0030n, changes: 0n } },
  ])
  checkChain(encoded)
})

test('what stands where it must not is refused with a sentence', () => {
  const begin = pgoutput.begin(8n, 0n, 1)
  const relation = pgoutput.relation(1, 's', 't', 'default', [{ name: 'a', typeOid: 23, key: true }])
  const one = pgoutput.text('1')
  refuses([begin, begin], /inside another/)
  refuses([pgoutput.commit(8n, 16n, 0n)], /has not begun/)
  refuses([begin, pgoutput.commit(9n, 16n, 0n)], /another LSN/)
  refuses([relation, pgoutput.insert(1, [one])], /outside of a transaction/)
  refuses([begin, pgoutput.insert(1, [one])], /before its RELATION/)
  refuses([begin, pgoutput.truncate([1], false, false)], /before its RELATION/)
  refuses([relation, pgoutput.truncate([1], false, false)], /outside of a transaction/)
  refuses([begin, pgoutput.message(8n, false, '', Buffer.alloc(0))], /wrong side/)
  refuses([pgoutput.message(8n, true, '', Buffer.alloc(0))], /wrong side/)
  refuses([relation, begin, pgoutput.insert(1, [one, one])], /number of columns/)
  refuses([relation, begin, pgoutput.insert(1, ['unchanged'])], /type does not allow/)
  refuses([relation, begin, pgoutput.remove(1, 'O', [one])], /replica identity/)
  refuses([relation, begin, Buffer.concat([pgoutput.insert(1, [one]), Buffer.from([0])])], /too many/)
  refuses([begin, Buffer.from('S\0\0\0\0\0')], /Stream Start/)
  refuses([Buffer.alloc(0)], /empty/)
  assert.throws(() => new ChangeEncoder(Buffer.alloc(31)), RangeError)
})

test('values that are not what the session was asked for are refused, not passed on', () => {
  const wrong: readonly (readonly [number, string])[] = [
    [16, 'true'], [16, ''], [17, 'abc'], [17, '\\x0'], [17, '\\x0g'], [20, ''], [20, '-'], [20, '1e5'], [20, '9223372036854775808'], [20,
      '-9223372036854775809'],
    [20, '99999999999999999999'], [23, '2147483648'], [23, '-2147483649'], [23, '1.0'], [23, '12345678901234567890'], [700, 'one'], [701,
      ''], [701, '1,5'], [701, '0x10'],
    [1082, '01/02/2026'], [1082, ''], [1082, '2026-13-01'], [1114, 'Fri Jan 02 03:04:05 2026'], [1114, '2026-01-02 03:04:05+00'], [1184,
      '2026-01-02 03:04:05'],
    [1184, '2026-01-02 03:04:05+02'], [1184, '02/01/2026 03:04:05 UTC'],
  ]
  for (const [typeOid, text] of wrong) {
    const relation = pgoutput.relation(1, 's', 't', 'default', [{ name: 'a', typeOid }])
    refuses([relation, pgoutput.begin(8n, 0n, 1), pgoutput.insert(1, [pgoutput.text(text)])], /value that is no/)
  }
})

test('cut and mutated messages are refused or taken, and never anything else', () => {
  const change = fc.record({ at: fc.nat(), byte: fc.nat({ max: 255 }) })
  fc.assert(
    fc.property(fc.nat({ max: captured.length - 1 }), fc.array(change, { maxLength: 4 }), fc.option(fc.nat()), (index, changes, cut) => {
      let victim = Buffer.from(captured[index]!)
      for (const { at, byte } of changes) victim[at % victim.length] = byte
      if (cut !== null) victim = victim.subarray(0, cut % victim.length)
      const encoder = new ChangeEncoder(ZERO)
      for (const message of captured.slice(0, index)) encoder.push(message)
      const before = encoder.pendingBytes
      try {
        encoder.push(victim)
        assert.ok(encoder.pendingBytes - before <= 4 * victim.length + 1024)
      } catch (error) {
        assert.ok(error instanceof BeyondError && error.code === 'BAD_REPLICATION_DATA', String(error))
      }
    }),
    { numRuns: 2000 },
  )
  // Every cut of every message.
  const encoder = new ChangeEncoder(ZERO)
  for (const message of captured) {
    for (let length = 0; length < Math.min(message.length, 60); length++)
      assert.throws(() => encoder.push(message.subarray(0, length)), (error) => error instanceof BeyondError
        && error.code === 'BAD_REPLICATION_DATA')
    encoder.push(message)
  }
})

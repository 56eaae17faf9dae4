import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { envelopes, type Status, type Subscribe, type Welcome } from '../../src/transport/envelopes.ts'
import { toLsn } from '../../src/wal/lsn.ts'

const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000_000)
const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length }).map((array) => Buffer.from(array))
const long = fc.bigInt({ min: 0n, max: 2n ** 63n - 1n })
const lsn = long.map(toLsn)
const position = fc.record({ lsn, chain: bytes(32) }, { noNullPrototype: true })
const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: null })
const record = <T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }) => fc.record(model, { noNullPrototype: true }) as fc.Arbitrary<T>

const welcome = record<Welcome>({
  version: fc.integer(),
  server: fc.string(),
  history: bytes(16),
  systemId: fc.string(),
  database: fc.string(),
  start: position,
  head: position,
  heartbeatMs: fc.integer(),
})
const status = record<Status>({
  server: fc.string(),
  startedAt: long,
  state: fc.string(),
  error: maybe(fc.string()),
  history: bytes(16),
  systemId: fc.string(),
  database: fc.string(),
  slot: record<Status['slot']>(
    { name: fc.string(), publication: fc.string(), confirmedLsn: lsn, receivedLsn: lsn, walLsn: lsn, lagBytes: long },
  ),
  log: record<Status['log']>(
    { oldest: position, head: position, headTime: maybe(long), bytes: long, segments: fc.integer(), transactions: long, changes: long },
  ),
  subscribers: fc.array(
    record<Status['subscribers'][number]>({
      id: long,
      peer: fc.string(),
      address: fc.string(),
      client: fc.string(),
      consumer: maybe(fc.string()),
      connected: fc.boolean(),
      sent: maybe(position),
      acknowledged: maybe(position),
      lagBytes: long,
      lagMs: long,
      sentBytes: long,
    }),
    { maxLength: 5 },
  ),
})

describe(`the bounded reader of envelopes (seed ${seed})`, () => {
  it('reads what avsc writes', () => {
    fc.assert(fc.property(welcome, (value) => assert.deepEqual(envelopes.welcome.decode(envelopes.welcome.encode(value)), value)), { seed })
    fc.assert(fc.property(status, (value) => assert.deepEqual(envelopes.status.decode(envelopes.status.encode(value)), value)), { seed })
  })

  it('lets a Subscribe pass, and none that claims more than it holds', () => {
    const request: Subscribe = {
      version: 1,
      client: 'c',
      from: {
        kind: 'position',
        after: { lsn: toLsn(1n), chain: Buffer.alloc(32) },
        partial: { lsn: toLsn(2n), index: 3n },
        checkpoints: [{ lsn: toLsn(1n), chain: Buffer.alloc(32) }],
      },
      consumer: 'c',
      tables: ['a.b', 'c.*'],
      operations: ['insert'],
    }
    assert.doesNotThrow(() => envelopes.subscribe.decode(envelopes.subscribe.encode(request)))
    // Version 1, no client, from now, no consumer, and a block of 2^40 patterns.
    const bomb = Buffer.from([2, 0, 2, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40])
    assert.throws(() => envelopes.subscribe.decode(bomb), { code: 'PROTOCOL_VIOLATION' })
  })
})

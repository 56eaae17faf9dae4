import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { BeyondError } from '../../src/errors.ts'
import type { ChangeEvent } from '../../src/transport/client-events.ts'
import { ClientSession, errorFromEnd, type SessionOptions } from '../../src/transport/client-session.ts'
import { envelopes, type From, type Position, type Subscribe } from '../../src/transport/envelopes.ts'
import { encodeFrame, FrameReader, frameType } from '../../src/transport/frame.ts'
import { formatPosition, parsePosition } from '../../src/transport/position.ts'
import { toLsn } from '../../src/wal/lsn.ts'
import {
  endFrame,
  GENESIS,
  messageFrame,
  progressFrame,
  skipFrame,
  TestHistory,
  TestRelation,
  transactionBytes,
  truncateFrame,
  welcomeFrame,
  type TestTransaction,
} from '../support/frames.ts'

const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000_000)
const runs = { seed, numRuns: 60 }

const orders = new TestRelation('orders', [
  { name: 'id', type: 'int8', key: true },
  { name: 'note', type: 'text' },
])
const people = new TestRelation('people', [{ name: 'name', type: 'text', key: true }])

const session = (options: Partial<SessionOptions> = {}): ClientSession =>
  new ClientSession(
    {
      client: 'test',
      start: { kind: 'now' },
      consumer: null,
      tables: [],
      operations: [],
      progress: false,
      maxFrameBytes: 1 << 24,
      ...options,
    },
  )

/** One line per event: all that a consumer could tell it by. */
function line(event: ChangeEvent): string {
  const where = event.kind === 'progress' ? '' : ` ${event.transaction.lsn}`
  const index = 'index' in event ? `#${event.index}` : ''
  const text = (_: string, value: unknown) => (typeof value === 'bigint' ? String(value) : value)
  const row = 'after' in event ? ` ${event.table.name} ${JSON.stringify(event.after, text)}` : ''
  return `${event.kind}${where}${index}${row}`
}

const insert = (id: bigint, note = 'x'): Buffer => orders.change('insert', null, { id, note })

/** Ten transactions of one to six changes of all kinds. */
function sampleTransactions(): TestTransaction[] {
  const history = new TestHistory()
  return Array.from({ length: 10 }, (_, t) => {
    const frames = Array.from({ length: 1 + ((t * 7) % 6) }, (_, i) => {
      const id = BigInt(t * 10 + i)
      if (i === 2) return people.change('delete', { name: `n${id}` }, null)
      if (i === 3) return truncateFrame(['orders', 'people'])
      if (i === 4) return messageFrame('p', `content ${id}`)
      return insert(id)
    })
    return history.transaction(BigInt(100 * (t + 1)), frames)
  })
}

const schemas = Buffer.concat([orders.schemaFrame(), people.schemaFrame()])

function feed(client: ClientSession, bytes: Buffer, sizes: readonly number[] = [bytes.length]): string[] {
  const lines: string[] = []
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length]
    const out: ChangeEvent[] = []
    // A copy, as a read buffer would be used again: nothing may be kept that is a view of it.
    const chunk = Buffer.from(bytes.subarray(at, at + size))
    client.push(chunk, out)
    chunk.fill(0xff)
    lines.push(...out.map(line))
    at += size
  }
  return lines
}

function requestOf(bytes: Buffer): Subscribe {
  let request: Subscribe | undefined
  new FrameReader(1 << 20).push(bytes, (frame) => {
    assert.equal(frame.type, frameType.subscribe)
    request = envelopes.subscribe.decode(frame.body)
  })
  return request!
}

type FromPosition = Extract<From, { kind: 'position' }>

/** What a server answers to a request, from a history that it keeps whole. */
function answer(transactions: readonly TestTransaction[], from: From): Buffer {
  const after: Position = from.kind === 'position' ? from.after : GENESIS
  const rest = transactions.filter(({ lsn }) => lsn > after.lsn)
  return Buffer.concat([welcomeFrame(after), schemas, ...rest.map(transactionBytes)])
}

const sharedOf = (error: unknown): unknown => (error as BeyondError).facts['shared']
const codeIs = (code: string) => (error: unknown) => error instanceof BeyondError && error.code === code

describe(`the client's session (seed ${seed})`, () => {
  const transactions = sampleTransactions()
  const all = answer(transactions, { kind: 'now' })
  const whole = (() => {
    const client = session()
    client.open()
    return feed(client, all)
  })()

  it('delivers every transaction in order, with the schema before the first change of a table', () => {
    assert.equal(whole.filter((text) => text.startsWith('begin')).length, 10)
    assert.deepEqual(whole.slice(0, 4), ['begin 100', 'schema 100#0', 'insert 100#1 orders {"id":"0","note":"x"}', 'commit 100'])
    assert.equal(whole.filter((text) => text.startsWith('schema')).length, 2)
  })

  it('gives the same events however the bytes are cut', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 12 }), (sizes) => {
        const client = session()
        client.open()
        assert.deepEqual(feed(client, all, sizes), whole)
      }),
      runs,
    )
  })

  it('delivers each event once, wherever connections are cut', () => {
    fc.assert(
      fc.property(fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 6 }), fc.integer({ min: 1, max: 200 }), (cuts, size) => {
        const client = session()
        const lines: string[] = []
        for (const cut of [...cuts, 1]) {
          const bytes = answer(transactions, requestOf(client.open()).from)
          lines.push(...feed(client, bytes.subarray(0, Math.ceil(bytes.length * cut)), [size]))
        }
        assert.deepEqual(lines, whole)
      }),
      runs,
    )
  })

  it('delivers each event once, cut at every single byte', () => {
    const few = transactions.slice(0, 3)
    const bytes = answer(few, { kind: 'now' })
    const expected = (() => {
      const client = session()
      client.open()
      return feed(client, bytes)
    })()
    for (let cut = 0; cut <= bytes.length; cut++) {
      const client = session()
      client.open()
      const lines = feed(client, bytes.subarray(0, cut))
      lines.push(...feed(client, answer(few, requestOf(client.open()).from)))
      assert.deepEqual(lines, expected, `cut at ${cut}`)
    }
  })

  it('goes on in a new process from the position of any event', () => {
    const events: ChangeEvent[] = []
    const first = session()
    first.open()
    first.push(all, events)
    for (const [i, event] of events.entries()) {
      const client = session({ start: { kind: 'position', position: parsePosition(event.position), checkpoints: [] } })
      const lines = feed(client, answer(transactions, requestOf(client.open()).from))
      // A new process meets each table for the first time, and has seen the Begin of what it has a part of.
      const isNews = (text: string) => !text.startsWith('schema')
      const seen = event.kind === 'begin' ? i : i + 1
      const skipped = event.kind === 'schema' && event.index === 0 ? i - 1 : seen
      assert.deepEqual(lines.filter(isNews), whole.slice(skipped).filter(isNews), event.position)
    }
  })

  it('asks for what it lacks, and names older positions', () => {
    const client = session()
    client.open()
    feed(client, all)
    const position = client.position
    assert.deepEqual(position, { after: transactions[9].position })
    const from = requestOf(client.open()).from as FromPosition
    assert.equal(formatPosition({ after: from.after }), formatPosition({ after: transactions[9].position }))
    assert.equal(from.partial, undefined)
    assert.ok(from.checkpoints.length >= 3)
    assert.deepEqual([...from.checkpoints].map(({ lsn }) => lsn), [...from.checkpoints].map(({ lsn }) => lsn).sort((a, b) => Number(b - a)))
  })

  it('names the part of a transaction that it has seen', () => {
    const client = session()
    client.open()
    const history = new TestHistory()
    const { begin, frames } = history.transaction(50n, [insert(1n), insert(2n), insert(3n)])
    feed(client, Buffer.concat([welcomeFrame(GENESIS), schemas, begin, frames[0], frames[1]]))
    assert.equal(formatPosition(client.position!), `0/0:${'07'.repeat(32)}+2@0/32@1763804400123456`)
    const from = requestOf(client.open()).from as FromPosition
    assert.deepEqual(from.partial, { lsn: 50n, index: 2n })
  })

  it('counts what a filter leaves out', () => {
    const client = session()
    client.open()
    const history = new TestHistory()
    const { begin, frames, commit } = history.transaction(50n, [insert(1n), insert(2n), insert(3n), insert(4n), insert(5n)])
    const lines = feed(client, Buffer.concat([welcomeFrame(GENESIS), schemas, begin, skipFrame(2), frames[2], skipFrame(2), commit]))
    assert.deepEqual(lines, ['begin 50', 'schema 50#2', 'insert 50#3 orders {"id":"3","note":"x"}', 'commit 50'])
  })

  it('moves on with heartbeats, and shows them when asked', () => {
    const silent = session()
    const loud = session({ progress: true })
    const position = { lsn: toLsn(700n), chain: Buffer.alloc(32, 9) }
    for (const client of [silent, loud]) client.open()
    const bytes = Buffer.concat([welcomeFrame(GENESIS), progressFrame(position, 800n)])
    assert.deepEqual(feed(silent, bytes), [])
    assert.deepEqual(feed(loud, bytes), ['progress'])
    assert.deepEqual(silent.position, { after: position })
  })

  it('tells of a new definition when the first change under it comes, not when it is announced', () => {
    const wider = new TestRelation('orders', [
      { name: 'id', type: 'int8', key: true },
      { name: 'note', type: 'text' },
      { name: 'total', type: 'numeric' },
    ])
    const client = session()
    client.open()
    const history = new TestHistory()
    const out: ChangeEvent[] = []
    const added = wider.change('insert', null, { id: 2n, note: 'y', total: '1.50' })
    const bytes = [
      welcomeFrame(GENESIS),
      schemas,
      wider.schemaFrame(),
      transactionBytes(history.transaction(50n, [insert(1n), added, insert(3n)])),
    ]
    client.push(Buffer.concat(bytes), out)
    const changes = out.filter((event) => event.kind === 'schema')
    assert.deepEqual(
      changes.map(({ index, previous, table }) => [index, previous?.columns.length, table.columns.length]),
      [
        [0, undefined, 2],
        [1, 2, 3],
        [2, 3, 2],
      ],
    )
  })

  it('keeps apart a message and a commit at the same LSN', () => {
    const client = session()
    client.open()
    const history = new TestHistory()
    const one = history.transaction(50n, [messageFrame('p', 'c', 50n, false)], { xid: 0, time: 0n })
    const two = history.transaction(50n, [insert(1n)])
    const lines = feed(client, Buffer.concat([welcomeFrame(GENESIS), schemas, transactionBytes(one), transactionBytes(two)]))
    assert.deepEqual(
      lines,
      ['begin 50', 'message 50#1', 'commit 50', 'begin 50', 'schema 50#0', 'insert 50#1 orders {"id":"1","note":"x"}', 'commit 50'],
    )
  })
})

describe('the client refuses another history', () => {
  const history = () => new TestHistory()
  const cutClient = (): ClientSession => {
    const client = session()
    client.open()
    const { begin, frames } = history().transaction(50n, [insert(1n), insert(2n)], { xid: 9 })
    feed(client, Buffer.concat([welcomeFrame(GENESIS), schemas, begin, frames[0]]))
    client.open()
    return client
  }

  for (const [name, transaction] of Object.entries({
    'another LSN': history().transaction(60n, [insert(1n), insert(2n)], { xid: 9 }),
    'another xid': history().transaction(50n, [insert(1n), insert(2n)], { xid: 10 }),
    'another time': history().transaction(50n, [insert(1n), insert(2n)], { xid: 9, time: 1n }),
  }))
    it(`when the cut transaction comes with ${name}`, () => {
      const client = cutClient()
      assert.throws(
        () => feed(client, Buffer.concat([welcomeFrame(GENESIS), schemas, transactionBytes(transaction)])),
        (error: unknown) => codeIs('HISTORY_BROKEN')(error) && sharedOf(error) === formatPosition({ after: GENESIS }),
      )
    })

  it('when the cut transaction is shorter now', () => {
    const client = session()
    client.open()
    const { begin, frames } = history().transaction(50n, [insert(1n), insert(2n)], { xid: 9 })
    feed(client, Buffer.concat([welcomeFrame(GENESIS), schemas, begin, ...frames]))
    client.open()
    assert.throws(
      () => feed(
        client,
        Buffer.concat([welcomeFrame(GENESIS), schemas, transactionBytes(history().transaction(50n, [insert(1n)], { xid: 9 }))]),
      ),
      codeIs('HISTORY_BROKEN'),
    )
  })

  it('when the server has passed the cut transaction by', () => {
    const client = cutClient()
    const passed = progressFrame({ lsn: toLsn(50n), chain: Buffer.alloc(32) })
    assert.throws(() => feed(client, Buffer.concat([welcomeFrame(GENESIS), passed])), codeIs('HISTORY_BROKEN'))
  })

  it('when a saved position names another transaction of the same LSN, whatever the filter', () => {
    for (const tables of [[], ['public.people']]) {
      const position = parsePosition(`${formatPosition({ after: GENESIS })}+1@0/32@1763804400999999`)
      const client = session({ start: { kind: 'position', position, checkpoints: [] }, tables })
      client.open()
      const other = history().transaction(50n, [insert(1n), insert(2n)])
      assert.throws(() => feed(client, Buffer.concat([welcomeFrame(GENESIS), schemas, transactionBytes(other)])), codeIs('HISTORY_BROKEN'))
    }
  })

  it('but not when a saved position is used with another filter', () => {
    const position = parsePosition(`${formatPosition({ after: GENESIS })}+1@0/32`)
    const client = session({ start: { kind: 'position', position, checkpoints: [] }, tables: ['public.people'] })
    client.open()
    const later = history().transaction(70n, [people.change('insert', null, { name: 'Ann' })])
    assert.equal(feed(client, Buffer.concat([welcomeFrame(GENESIS), schemas, transactionBytes(later)])).length, 4)
  })

  it('when the server begins elsewhere than asked', () => {
    const client = session({ start: { kind: 'position', position: { after: GENESIS }, checkpoints: [] } })
    client.open()
    assert.throws(() => feed(client, welcomeFrame({ lsn: GENESIS.lsn, chain: Buffer.alloc(32, 8) })), codeIs('PROTOCOL_VIOLATION'))
  })
})

describe('the end of a stream', () => {
  it('carries code, sentence and the shared position', () => {
    const client = session()
    client.open()
    feed(client, Buffer.concat([welcomeFrame(GENESIS), endFrame('HISTORY_BROKEN', { shared: GENESIS })]))
    const error = errorFromEnd(client.ended!)
    assert.equal(error.code, 'HISTORY_BROKEN')
    assert.equal(error.facts['shared'], formatPosition({ after: GENESIS }))
  })

  it('may have a code that this client does not know', () => {
    const decode = (frame: Buffer) => errorFromEnd(envelopes.end.decode(frame.subarray(5)))
    assert.deepEqual([decode(endFrame('NEW_THING')).code, decode(endFrame('NEW_THING')).facts['remoteCode']], ['BAD_REQUEST', 'NEW_THING'])
    assert.equal(decode(endFrame('NEW_THING', { retryAfterMs: 5 })).retry, true)
    assert.equal(decode(endFrame('toString')).facts['remoteCode'], 'toString')
  })
})

describe('frames out of order', () => {
  const { begin, frames, commit, position } = new TestHistory().transaction(50n, [insert(1n)])
  const welcome = welcomeFrame(GENESIS)
  const foreign = new TestRelation('other', [{ name: 'a', type: 'int4' }]).change('insert', null, { a: 1 })
  const cases: Record<string, Buffer[]> = {
    'Begin before Welcome': [begin],
    'two Welcomes': [welcome, welcome],
    'a change outside of a transaction': [welcome, schemas, frames[0]],
    'a change of a schema that was not announced': [welcome, schemas, begin, foreign],
    'the same schema twice': [welcome, schemas, schemas],
    'Commit without Begin': [welcome, commit],
    'Begin within a transaction': [welcome, begin, begin],
    'a Commit that counts otherwise': [welcome, schemas, begin, commit],
    'a transaction before the position': [welcomeFrame({ lsn: toLsn(60n), chain: Buffer.alloc(32) }), begin],
    'a position that goes back': [welcomeFrame(position), progressFrame(GENESIS)],
    'anything after End': [welcome, endFrame('SHUTDOWN'), progressFrame(GENESIS)],
    'a frame that only clients send': [encodeFrame(frameType.ack, envelopes.ack.encode({ position }))],
    'an unknown frame after End': [welcome, endFrame('SHUTDOWN'), encodeFrame(99 as never, Buffer.alloc(3))],
    'a Skip of nothing': [welcome, begin, skipFrame(0)],
    'a Skip that goes back': [welcome, begin, skipFrame(-4)],
    'a heartbeat of a nanosecond': [welcomeFrame(GENESIS, { heartbeatMs: 0 })],
    'an array longer than the frame': [
      welcome,
      begin,
      encodeFrame(frameType.truncate, Buffer.from([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])),
    ],
  }
  for (const [name, bytes] of Object.entries(cases))
    it(`${name} is a violation of the protocol`, () => {
      const client = session()
      client.open()
      assert.throws(() => feed(client, Buffer.concat(bytes)), codeIs('PROTOCOL_VIOLATION'))
    })

  it('a frame of a type that this client does not know is skipped', () => {
    const client = session()
    client.open()
    const unknown = encodeFrame(99 as never, Buffer.alloc(3))
    assert.equal(feed(client, Buffer.concat([unknown, welcome, unknown, schemas, begin, unknown, ...frames, commit])).length, 4)
  })

  it('an unknown version is said to be one', () => {
    const client = session()
    client.open()
    const other = envelopes.welcome.encode({ ...envelopes.welcome.decode(welcome.subarray(5)), version: 2 })
    assert.throws(() => feed(client, encodeFrame(frameType.welcome, other)), codeIs('UNSUPPORTED_VERSION'))
  })

  it('a frame longer than allowed is refused when its length is known', () => {
    const client = session({ maxFrameBytes: 1000 })
    client.open()
    assert.throws(() => feed(client, Buffer.from([0, 0, 4, 0])), codeIs('PROTOCOL_VIOLATION'))
  })
})

describe(`hostile frames (seed ${seed})`, () => {
  it('100,000 random and mutated ones never do worse than a violation', () => {
    const transactions = sampleTransactions().slice(0, 4)
    const stream = answer(transactions, { kind: 'now' })
    let state = seed || 1
    const random = (below: number): number => {
      // xorshift32
      state ^= state << 13
      state ^= state >>> 17
      state ^= state << 5
      return (state >>> 0) % below
    }
    const frames: Buffer[] = []
    new FrameReader(1 << 20).push(stream, ({ type, body }) => frames.push(encodeFrame(type as never, body)))
    const before = process.memoryUsage().rss
    const started = performance.now()
    let refused = 0
    for (let round = 0, sent = 0; sent < 100_000; round++) {
      const client = session()
      client.open()
      const out: ChangeEvent[] = []
      try {
        for (const frame of frames) {
          sent++
          client.push(random(4) === 0 ? mutate(frame, random) : frame, out)
        }
      } catch (error) {
        refused++
        assert.ok(error instanceof BeyondError, String((error as Error).stack))
        assert.ok(['PROTOCOL_VIOLATION', 'UNSUPPORTED_VERSION'].includes(error.code), error.code)
      }
      for (const event of out) assert.equal(typeof event.position, 'string')
    }
    assert.ok(refused > 1000)
    assert.ok(performance.now() - started < 30_000)
    assert.ok(process.memoryUsage().rss - before < 200e6)
  })
})

function mutate(frame: Buffer, random: (below: number) => number): Buffer {
  const copy = Buffer.from(frame)
  switch (random(5)) {
    case 0: // Wrong bytes.
      for (let i = 0; i <= random(4); i++) copy[random(copy.length)] = random(256)
      return copy
    case 1: // Another type.
      copy[4] = random(32)
      return copy
    case 2: // Noise under an honest header.
      for (let i = 5; i < copy.length; i++) copy[i] = random(256)
      return copy
    case 3: // Cut, its length adjusted.
      return encodeFrame(copy[4] as never, copy.subarray(5, 5 + random(copy.length)))
    default: // Lengths as large as they get.
      copy.fill(0xff, 5 + random(Math.max(1, copy.length - 5)))
      return copy
  }
}

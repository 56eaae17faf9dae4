import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { BeyondError } from '../../src/errors.ts'
import {
  connect,
  subscribe,
  type ChangeEvent,
  type ConnectOptions,
  type SubscribeOptions,
  type SubscriptionState,
} from '../../src/transport/client.ts'
import { envelopes, type Position, type Subscribe } from '../../src/transport/envelopes.ts'
import { FrameReader, frameType } from '../../src/transport/frame.ts'
import { formatPosition } from '../../src/transport/position.ts'
import type { QuicStream } from '../../src/transport/quic.ts'
import { fakeServer, writeAll, type FakeServer } from '../support/fake-quic.ts'
import {
  endFrame,
  GENESIS,
  progressFrame,
  TestHistory,
  TestRelation,
  transactionBytes,
  welcomeFrame,
  type TestTransaction,
} from '../support/frames.ts'

const orders = new TestRelation('orders', [{ name: 'id', type: 'int4', key: true }])
const insert = (id: number): Buffer => orders.change('insert', null, { id })

/** What a client has said on a stream so far. */
type Heard = { request: Subscribe | undefined; readonly acks: Position[] }

/** Reads a client's frames; `onRequest` is called with the first. */
function listen(stream: QuicStream, onRequest: (request: Subscribe) => void): Heard {
  const heard: Heard = { request: undefined, acks: [] }
  const frames = new FrameReader(1 << 16)
  const into = Buffer.alloc(4096)
  stream.onReadable = () => {
    for (let count = stream.read(into); count !== 0; count = stream.read(into)) {
      if (count < 0) return stream.finish()
      frames.push(into.subarray(0, count), ({ type, body }) => {
        if (type === frameType.ack) heard.acks.push(envelopes.ack.decode(body).position)
        else onRequest((heard.request = envelopes.subscribe.decode(body)))
      })
    }
  }
  stream.onReadable()
  return heard
}

/** A history of `count` transactions of two inserts each. */
function makeHistory(count: number): TestTransaction[] {
  const history = new TestHistory()
  return Array.from({ length: count }, (_, i) => history.transaction(BigInt(100 * (i + 1)), [insert(i * 2), insert(i * 2 + 1)]))
}

/** The answer of an honest server. */
function answerTo(request: Subscribe, transactions: readonly TestTransaction[], heartbeatMs = 1000): Buffer {
  const { from } = request
  const after = from.kind === 'position' ? from.after : GENESIS
  const head = transactions.at(-1)?.position ?? GENESIS
  const rest = transactions.filter(({ lsn }) => lsn > after.lsn).map(transactionBytes)
  return Buffer.concat([welcomeFrame(after, { head, heartbeatMs }), orders.schemaFrame(), ...rest])
}

function options({ quic }: FakeServer): ConnectOptions {
  return { server: '127.0.0.1:9443', tls: { ca: '', cert: '', key: '' }, quic }
}
const fast: SubscribeOptions = { reconnect: { minMs: 1, maxMs: 5, connectTimeoutMs: 500 } }
const idOf = (event: ChangeEvent): unknown => (event.kind === 'insert' ? event.after['id'] : undefined)

async function take(changes: AsyncIterable<ChangeEvent>, inserts: number): Promise<unknown[]> {
  const ids: unknown[] = []
  for await (const event of changes) {
    if (event.kind === 'insert') ids.push(idOf(event))
    if (ids.length === inserts) break
  }
  return ids
}
const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; !condition(); i++) {
    if (i > 100_000) throw new Error('waited in vain')
    await new Promise(setImmediate)
  }
}

describe('a subscription', () => {
  it('delivers one by one, in batches, as transactions and as an Observable alike', async () => {
    const transactions = makeHistory(50)
    const server = fakeServer((stream) => void listen(stream, (request) => writeAll(stream, answerTo(request, transactions))))
    const one = await take(subscribe({ ...options(server), ...fast }), 100)
    assert.deepEqual(one, upTo(100))

    const batched: unknown[] = []
    for await (const batch of subscribe({ ...options(server), ...fast }).batches()) {
      assert.ok(batch.length > 0)
      batched.push(...batch.map(idOf).filter((id) => id !== undefined))
      if (batched.length === 100) break
    }
    assert.deepEqual(batched, upTo(100))

    const parts: [number, boolean][] = []
    for await (const { events, complete } of subscribe({ ...options(server), ...fast }).transactions({ maxEvents: 2 })) {
      parts.push([events.length, complete])
      if (parts.length === 6) break
    }
    // The first also brings the definition of its table; one that is as long as a part is told to be complete afterwards.
    assert.deepEqual(parts, [[2, false], [1, true], [2, false], [0, true], [2, false], [0, true]])

    const seen: unknown[] = []
    await new Promise<void>((resolve, reject) => {
      const subscription = subscribe({ ...options(server), ...fast })
        .observable()
        .subscribe({
          next: (event) => {
            if (event.kind === 'insert') seen.push(idOf(event))
            if (seen.length < 100) return
            subscription.unsubscribe()
            resolve()
          },
          error: reject,
        })
    })
    assert.deepEqual(seen, upTo(100))
    await until(() => server.connections.every((connection) => connection.closed))
  })

  it('comes through any number of lost connections without losing or repeating an event', async () => {
    const transactions = makeHistory(40)
    const states: SubscriptionState['status'][] = []
    const server = fakeServer((stream, number) => {
      listen(stream, (request) => {
        const bytes = answerTo(request, transactions)
        if (number > 30) return writeAll(stream, bytes)
        // Cut a little further each time: in the Welcome, in the schema, in a transaction, between two.
        writeAll(stream, bytes.subarray(0, 37 * (number + 1)))
        const connection = server.connections.at(-1)!
        setImmediate(() => setImmediate(() => (number % 2 === 0 ? connection.close(0n, 'cut') : stream.reset(2n))))
      })
    })
    const changes = subscribe({ ...options(server), ...fast, onState: ({ status }) => states.push(status) })
    assert.deepEqual(await take(changes, 80), upTo(80))
    assert.ok(states.filter((status) => status === 'waiting').length >= 20)
    assert.equal(states.at(-1), 'closed')
  })

  it('goes on after the ends that pass', async () => {
    const transactions = makeHistory(3)
    const codes = ['SHUTDOWN', 'TOO_MANY', 'CONSUMER_BUSY', 'TIMEOUT', 'SOMETHING_NEW']
    const server = fakeServer((stream, number) => {
      listen(stream, (request) => {
        const code = codes[number]
        if (code) writeAll(stream, endFrame(code, { retryAfterMs: 1 }))
        else writeAll(stream, answerTo(request, transactions))
      })
    })
    assert.deepEqual(await take(subscribe({ ...options(server), ...fast }), 6), upTo(6))
  })

  for (const code of ['HISTORY_BROKEN', 'POSITION_TOO_OLD', 'BAD_REQUEST', 'INTERNAL'])
    it(`ends with ${code}, after the events before it`, async () => {
      const transactions = makeHistory(2)
      const server = fakeServer((stream) => {
        listen(stream, (request) => writeAll(stream, Buffer.concat([answerTo(request, transactions), endFrame(code, { shared: GENESIS })])))
      })
      const seen: unknown[] = []
      const changes = subscribe({ ...options(server), ...fast })
      await assert.rejects(
        async () => {
          for await (const event of changes) if (event.kind === 'insert') seen.push(idOf(event))
        },
        (error: unknown) => error instanceof BeyondError && error.code === code && error.facts['shared'] === formatPosition(
          { after: GENESIS },
        ),
      )
      assert.deepEqual(seen, upTo(4))
    })

  it('gives up when the first connection does not succeed in time, and at once when it is refused', async () => {
    const server = fakeServer(() => {})
    server.refuse = new BeyondError('UNREACHABLE', 'Nothing there.')
    const started = performance.now()
    await assert.rejects(
      take(subscribe({ ...options(server), reconnect: { minMs: 1, maxMs: 5, connectTimeoutMs: 100 } }), 1),
      { code: 'UNREACHABLE' },
    )
    assert.ok(performance.now() - started >= 95)
    assert.ok(server.dials.length > 3)
    server.refuse = new BeyondError('UNAUTHENTICATED', 'Not you.')
    const before = server.dials.length
    await assert.rejects(take(subscribe({ ...options(server), ...fast }), 1), { code: 'UNAUTHENTICATED' })
    assert.equal(server.dials.length, before + 1)
  })

  it('gives a lost connection up after the time it was told', async () => {
    const server = fakeServer((stream) => {
      listen(stream, (request) => {
        writeAll(stream, answerTo(request, makeHistory(1)))
        server.refuse = new BeyondError('UNREACHABLE', 'Gone.')
        setImmediate(() => setImmediate(() => server.connections[0].close(0n)))
      })
    })
    await assert.rejects(
      take(subscribe({ ...options(server), reconnect: { minMs: 1, maxMs: 5, giveUpAfterMs: 60 } }), 3),
      { code: 'UNREACHABLE' },
    )
  })

  it('connects anew when the server falls silent, not while its consumer is slow', async () => {
    const transactions = makeHistory(2)
    const server = fakeServer((stream, number) => {
      // Silent after the first transaction; the second connection brings the rest.
      listen(stream, (request) => writeAll(stream, answerTo(request, number === 0 ? transactions.slice(0, 1) : transactions, 10)))
    })
    const states: SubscriptionState[] = []
    const changes = subscribe({ ...options(server), ...fast, onState: (state) => states.push(state) })
    const ids: unknown[] = []
    for await (const event of changes) {
      if (event.kind === 'begin' && ids.length === 0) {
        await new Promise((resolve) => setTimeout(resolve, 60))
        assert.deepEqual(states.map(({ status }) => status), ['connecting', 'streaming'])
      }
      if (event.kind === 'insert') ids.push(idOf(event))
      if (ids.length === 4) break
    }
    assert.deepEqual(ids, upTo(4))
    assert.equal(server.connections.length, 2)
    assert.ok(states.some((state) => state.status === 'waiting' && /silent/.test(state.error.message)))
  })

  it('reads nothing ahead of its consumer', async () => {
    const window = 64 * 1024
    let serverStream: QuicStream | undefined
    let sent = 0
    const history = new TestHistory()
    const server = fakeServer((stream) => {
      serverStream = stream
      listen(stream, () => {
        const parts = [welcomeFrame(GENESIS), orders.schemaFrame()]
        const pump = (): void => {
          for (;;) {
            const bytes = parts.shift() ?? transactionBytes(history.transaction(history.lsn + 100n, upTo(100).map(insert)))
            const count = stream.write(bytes)
            sent += count
            if (count < bytes.length) {
              parts.unshift(bytes.subarray(count))
              stream.onWritable = pump
              return
            }
          }
        }
        pump()
      })
    }, window)
    const changes = subscribe({ ...options(server), ...fast })
    const iterator = changes[Symbol.asyncIterator]()
    await iterator.next()
    const after = sent
    await new Promise((resolve) => setTimeout(resolve, 30))
    assert.ok(sent <= after + window)
    assert.ok(sent < 4 * window)
    await iterator.return!()
    assert.ok(serverStream)
  })

  it('ends without an error when its signal aborts: before, while waiting, and while connecting', async () => {
    const server = fakeServer((stream) => void listen(stream, (request) => writeAll(stream, answerTo(request, []))))
    assert.deepEqual(await take(subscribe({ ...options(server), signal: AbortSignal.abort() }), 1), [])
    const stop = new AbortController()
    const waiting = take(
      subscribe(
        { ...options(server), signal: stop.signal, onState: (state) => state.status === 'streaming' && setImmediate(() => stop.abort()) },
      ),
      1,
    )
    assert.deepEqual(await waiting, [])
    server.refuse = new BeyondError('UNREACHABLE', 'Nothing there.')
    const again = new AbortController()
    const connecting = take(
      subscribe(
        { ...options(server), signal: again.signal, onState: (state) => state.status === 'waiting' && setImmediate(() => again.abort()) },
      ),
      1,
    )
    assert.deepEqual(await connecting, [])
  })

  it('can be closed twice, and read once', async () => {
    const server = fakeServer((stream) => void listen(stream, (request) => writeAll(stream, answerTo(request, makeHistory(1)))))
    const changes = subscribe({ ...options(server), ...fast })
    await take(changes, 2)
    await changes.close()
    await changes[Symbol.asyncDispose]()
    assert.throws(() => changes[Symbol.asyncIterator](), { code: 'BAD_ARGUMENT' })
  })

  it('answers calls of next that overlap in order', async () => {
    const server = fakeServer((stream) => void listen(stream, (request) => writeAll(stream, answerTo(request, makeHistory(3)))))
    const changes = subscribe({ ...options(server), ...fast })
    const iterator = changes[Symbol.asyncIterator]()
    const results = await Promise.all(upTo(13).map(() => iterator.next()))
    assert.deepEqual(
      results.map(({ value }) => value?.kind).filter((kind) => kind === 'begin' || kind === 'commit').join(' '),
      'begin commit begin commit begin commit',
    )
    await changes.close()
  })

  it('resumes in another process from the position of an event', async () => {
    const transactions = makeHistory(3)
    const server = fakeServer((stream) => void listen(stream, (request) => writeAll(stream, answerTo(request, transactions))))
    let position: string | undefined
    const first = subscribe({ ...options(server), ...fast })
    for await (const event of first)
      if (idOf(event) === 2) {
        position = event.position
        assert.equal(first.position, position)
        break
      }
    assert.equal(first.position, position)
    assert.deepEqual(await take(subscribe({ ...options(server), ...fast, from: position! }), 3), [3, 4, 5])
  })

  it('refuses options that can not be meant', () => {
    const server = fakeServer(() => {})
    for (const bad of [
      { from: '16/0' },
      { consumer: 'A b' },
      { tables: [''] },
      { operations: ['upsert' as never] },
      { from: new Date(Number.NaN) },
      { reconnect: { minMs: -1 } },
    ])
      assert.throws(() => subscribe({ ...options(server), ...bad }), { code: 'BAD_ARGUMENT' })
    for (const address of ['', 'a:b', 'host:99999', 'host:0', 'a b'])
      assert.throws(() => connect({ ...options(server), server: address }), { code: 'BAD_ARGUMENT' })
  })
})

describe('acknowledgements', () => {
  function acknowledged(transactions: readonly TestTransaction[]) {
    const heard: Heard[] = []
    const server = fakeServer((stream) => {
      const one: Heard = listen(stream, (request) => writeAll(stream, answerTo(request, transactions)))
      heard.push(one)
    })
    return { server, heard, last: () => heard.flatMap(({ acks }) => acks).at(-1)?.lsn }
  }

  it('follow the loop by themselves: what is in its hands is not acknowledged', async () => {
    const { server, last } = acknowledged(makeHistory(3))
    const changes = subscribe({ ...options(server), ...fast, consumer: 'c' })
    for await (const event of changes) if (event.kind === 'commit' && event.transaction.lsn === 200n) break
    await until(() => last() !== undefined)
    assert.equal(last(), 100n)
  })

  it('come when more is asked for', async () => {
    const { server, last } = acknowledged(makeHistory(3))
    const changes = subscribe({ ...options(server), ...fast, consumer: 'c' })
    const batches = changes.batches()
    for (let seen = 0n; seen < 300n; ) {
      const { value } = await batches.next()
      for (const event of value ?? []) if (event.kind === 'commit') seen = event.transaction.lsn
    }
    const pending = batches.next()
    await until(() => last() === 300n)
    await changes.close()
    await pending
  })

  it('are given by hand, kept over a lost connection, and only for what was delivered', async () => {
    const transactions = makeHistory(3)
    const { server, heard, last } = acknowledged(transactions)
    const changes = subscribe({ ...options(server), ...fast, consumer: 'c', acknowledge: 'manual' })
    for await (const event of changes) {
      if (event.kind !== 'commit') continue
      assert.throws(
        () => changes.acknowledge(formatPosition({ after: { ...transactions[2].position, lsn: (10n ** 6n) as never } })),
        { code: 'BAD_ARGUMENT' },
      )
      if (event.transaction.lsn !== 300n) continue
      assert.equal(last(), undefined)
      changes.acknowledge(event.position)
      await until(() => last() === 300n)
      server.connections[0].close(2n, 'restart')
      break
    }
    assert.equal(heard.length, 1)
  })

  it('go along with heartbeats when nothing is left to acknowledge', async () => {
    const later = { lsn: 900n as never, chain: Buffer.alloc(32, 3) }
    let heard: Heard | undefined
    const server = fakeServer((stream) => {
      heard = listen(stream, () => writeAll(stream, Buffer.concat([welcomeFrame(GENESIS), progressFrame(later)])))
    })
    const changes = subscribe({ ...options(server), ...fast, consumer: 'c', tables: ['public.none'] })
    const reading = take(changes, 1)
    await until(() => heard?.acks.at(-1)?.lsn === 900n)
    await changes.close()
    assert.deepEqual(await reading, [])
  })
})

describe('one connection', () => {
  it('is shared by subscriptions and status, and dialled once', async () => {
    const server = fakeServer((stream) => void listen(stream, (request) => writeAll(stream, answerTo(request, makeHistory(5)))))
    await using client = connect(options(server))
    const [a, b] = await Promise.all([take(client.subscribe(fast), 10), take(client.subscribe(fast), 10)])
    assert.deepEqual([a, b], [upTo(10), upTo(10)])
    assert.equal(server.dials.length, 1)
    assert.equal(server.connections[0].closed, false)
    await client.close()
    assert.equal(server.connections[0].closed, true)
  })

  it('asks for the status, and says what the server says', async () => {
    const server = fakeServer((stream) => {
      stream.onReadable = () => writeAll(stream, endFrame('SHUTDOWN', { message: 'The service is stopping.' }))
    })
    await using client = connect(options(server))
    await assert.rejects(client.status(), { code: 'SHUTDOWN', message: 'The service is stopping.' })
  })
})

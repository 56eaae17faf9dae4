import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { quic } from '../../src/transport/openssl-quic.ts'
import { MAX_UNACKNOWLEDGED_BYTES } from '../../src/transport/openssl-stream.ts'
import type { QuicConnection, QuicListener, QuicStream } from '../../src/transport/quic.ts'
import {
  ALPN, closed, createIdentities, dial, echo, limits, listen, nextConnection, nextStream, pattern, readBytes, streamClosed, until, writeAll,
  type Identities,
} from './quic-pair.ts'

let ids: Identities
before(async () => {
  ids = await createIdentities()
})

async function pair(listener: QuicListener): Promise<{ client: QuicConnection; server: QuicConnection }> {
  const accepted = nextConnection(listener)
  const client = await dial(listener, ids.client)
  return { client, server: await accepted }
}

async function streams(connections: { client: QuicConnection; server: QuicConnection }): Promise<{ near: QuicStream; far: QuicStream }> {
  const arrival = nextStream(connections.server)
  const near = connections.client.openStream()
  near.write(Buffer.from('!'))
  const far = await arrival
  assert.equal((await readBytes(far, 1)).toString(), '!')
  return { near, far }
}

test('bytes go both ways, names and addresses are known, the end of a stream arrives', async () => {
  await using listener = await listen(ids.server)
  const { client, server } = await pair(listener)
  assert.equal(client.peerName, 'the server')
  assert.equal(server.peerName, 'the client')
  assert.deepEqual(client.remote, listener.address)
  assert.equal(server.remote.host, '127.0.0.1')
  assert.notEqual(server.remote.port, 0)
  echo(server)
  const stream = client.openStream()
  assert.equal(stream.id, 0n)
  assert.equal(stream.write(Buffer.from('hello')), 5)
  stream.finish()
  assert.equal((await readBytes(stream)).toString(), 'hello')
  assert.equal(stream.read(Buffer.alloc(10)), -1)
  assert.equal(stream.write(Buffer.from('x')), 0)
  const end = closed(server)
  client.close(7n, 'enough')
  assert.deepEqual(await end, { code: 7n, reason: 'enough', remote: true, application: true })
})

test('the server opens streams too, and both sides may be IPv6', async () => {
  await using listener = await listen(ids.server, {}, '::1')
  const { client, server } = await pair(listener)
  assert.equal(server.remote.host, '::1')
  echo(client)
  const stream = server.openStream()
  assert.equal(stream.id, 1n)
  await writeAll(stream, Buffer.from('from the server'))
  stream.finish()
  assert.equal((await readBytes(stream)).toString(), 'from the server')
  client.close()
})

test('an IPv4 client of a dual-stack listener has its IPv4 address', async () => {
  await using listener = await quic.listen({ address: { host: '::', port: 0 }, alpn: ALPN, credentials: ids.server, limits })
  const accepted = nextConnection(listener)
  const client = await dial(listener, ids.client, { address: { host: '127.0.0.1', port: listener.address.port } })
  assert.equal((await accepted).remote.host, '127.0.0.1')
  client.close()
})

test('megabytes go through in both directions at once, unharmed', async () => {
  await using listener = await listen(ids.server)
  const { client, server } = await pair(listener)
  echo(server)
  const bytes = pattern(16 * 1024 * 1024)
  const stream = client.openStream()
  const back = readBytes(stream)
  await writeAll(stream, bytes)
  stream.finish()
  assert.ok((await back).equals(bytes))
  client.close()
})

test('half close: one side ends, the other goes on', async () => {
  await using listener = await listen(ids.server)
  const { near, far } = await streams(await pair(listener))
  near.finish()
  assert.equal((await readBytes(far)).length, 0)
  assert.equal(far.read(Buffer.alloc(1)), -1)
  await writeAll(far, pattern(200_000))
  far.finish()
  assert.ok((await readBytes(near)).equals(pattern(200_000)))
})

test('a peer that does not read stops the writer at a bounded number of bytes; nothing is lost when it reads on', async () => {
  await using listener = await listen(ids.server)
  const { near, far } = await streams(await pair(listener))
  const bytes = pattern(20 * 1024 * 1024)
  let written = 0
  let calls = 0
  let shorts = 0
  near.onWritable = () => {
    calls++
    push()
  }
  const push = (): void => {
    while (written < bytes.length) {
      const piece = bytes.subarray(written, written + 100_000)
      const count = near.write(piece)
      written += count
      if (count < piece.length) {
        shorts++
        return
      }
    }
    near.finish()
  }
  push()
  // Until nothing moves: what the peer's flow control allows has arrived there, and our buffer is full.
  let last = -1
  while (last !== written) {
    last = written
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  const stalled = written
  assert.ok(stalled > 0 && stalled < bytes.length)
  assert.ok(stalled <= MAX_UNACKNOWLEDGED_BYTES + 1024 * 1024, `${stalled} bytes were taken`)
  assert.equal(near.write(bytes.subarray(written)), 0)
  assert.ok((await readBytes(far)).equals(bytes))
  assert.equal(written, bytes.length)
  // One call for each short write, and one for the write of 0 above that came while one was due.
  assert.ok(calls <= shorts + 1)
})

test('onReadable is called once until the reader has met the end of what there is', async () => {
  await using listener = await listen(ids.server)
  const { near, far } = await streams(await pair(listener))
  let calls = 0
  far.onReadable = () => {
    calls++
  }
  near.write(Buffer.from('one'))
  await until(() => calls === 1, 'the first bytes are told')
  near.write(Buffer.from('two'))
  await writeAll(near, Buffer.alloc(100_000))
  await new Promise((resolve) => setTimeout(resolve, 50))
  assert.equal(calls, 1)
  const into = Buffer.alloc(64 * 1024)
  let total = 0
  for (let count = far.read(into); count > 0; count = far.read(into)) total += count
  assert.ok(total > 6)
  near.write(Buffer.from('three'))
  await until(() => calls >= 2, 'later bytes are told again')
})

test('many streams in many connections at once', async () => {
  await using listener = await listen(ids.server)
  listener.onConnection = echo
  const connections = await Promise.all(Array.from({ length: 12 }, () => dial(listener, ids.client)))
  await Promise.all(
    connections.flatMap((connection, index) =>
      Array.from({ length: 12 }, async (_, number) => {
        const stream = connection.openStream()
        const bytes = pattern(20_000 + index * 1000 + number)
        const back = readBytes(stream)
        await writeAll(stream, bytes)
        stream.finish()
        assert.ok((await back).equals(bytes))
      }),
    ),
  )
  for (const connection of connections) connection.close()
})

test('streams one after the other do not use up the connection', async () => {
  await using listener = await listen(ids.server, { maxStreamsPerConnection: 2 })
  const { client, server } = await pair(listener)
  echo(server)
  for (let number = 0; number < 300; number++) {
    const stream = client.openStream()
    stream.write(Buffer.from(`stream ${number}`))
    stream.finish()
    assert.equal((await readBytes(stream)).toString(), `stream ${number}`)
  }
  client.close()
})

test('a reset reaches the other side; a reset stream is no complete stream', async () => {
  await using listener = await listen(ids.server)
  const connections = await pair(listener)
  const { near, far } = await streams(connections)
  const told = streamClosed(far)
  await writeAll(near, Buffer.alloc(1000))
  near.reset(42n)
  assert.equal(near.write(Buffer.from('x')), 0)
  assert.equal(near.read(Buffer.alloc(1)), -1)
  near.reset(42n)
  near.finish()
  await told
  assert.equal(far.write(Buffer.from('x')), 0)
  assert.equal(far.read(Buffer.alloc(1)), -1)
  // The connection lives on.
  echo(connections.server)
  const other = connections.client.openStream()
  other.write(Buffer.from('still here'))
  other.finish()
  assert.equal((await readBytes(other)).toString(), 'still here')
})

test('streams over the limit are refused, and only these', async () => {
  await using listener = await listen(ids.server, { maxStreamsPerConnection: 3 })
  const { client, server } = await pair(listener)
  let arrived = 0
  server.onStream = () => {
    arrived++
  }
  const opened = Array.from({ length: 5 }, () => client.openStream())
  let refused = 0
  for (const stream of opened) {
    stream.onClosed = () => {
      refused++
    }
    stream.write(Buffer.from('?'))
  }
  await until(() => refused === 2, 'two streams are refused')
  assert.equal(arrived, 3)
  client.close()
})

test('streams wait until someone listens', async () => {
  await using listener = await listen(ids.server)
  const { client, server } = await pair(listener)
  const stream = client.openStream()
  stream.write(Buffer.from('early'))
  await new Promise((resolve) => setTimeout(resolve, 50))
  const far = await nextStream(server)
  assert.equal((await readBytes(far, 5)).toString(), 'early')
  client.close()
})

test('connections over the limits are refused, and let in again when others have gone', async () => {
  await using listener = await listen(ids.server, { maxConnectionsPerAddress: 2 })
  let ended = 0
  listener.onConnection = (connection) => {
    connection.onClosed = () => {
      ended++
    }
  }
  const first = await dial(listener, ids.client)
  const second = await dial(listener, ids.client)
  await assert.rejects(dial(listener, ids.client), { code: 'UNREACHABLE', message: /takes no more connections/ })
  first.close()
  await until(() => ended === 1, 'the first has ended')
  const third = await dial(listener, ids.client)
  second.close()
  third.close()

  await using small = await listen(ids.server, { maxConnections: 1 })
  const only = await dial(small, ids.client)
  await assert.rejects(dial(small, ids.client), { code: 'UNREACHABLE' })
  only.close()
})

test('what was written before close arrives, then the code and the reason', async () => {
  await using listener = await listen(ids.server)
  const { client, server } = await pair(listener)
  const arrival = nextStream(server)
  const near = client.openStream()
  const bytes = pattern(400_000)
  let at = 0
  near.onWritable = () => {
    at += near.write(bytes.subarray(at))
    if (at === bytes.length) client.close(99n, 'after the bytes')
  }
  near.onWritable()
  const far = await arrival
  const end = closed(server)
  const parts: Buffer[] = []
  far.onReadable = () => {
    for (;;) {
      const buffer = Buffer.alloc(64 * 1024)
      const count = far.read(buffer)
      if (count <= 0) return
      parts.push(buffer.subarray(0, count))
    }
  }
  assert.deepEqual(await end, { code: 99n, reason: 'after the bytes', remote: true, application: true })
  assert.ok(Buffer.concat(parts).equals(bytes))
})

test('close does not wait for a peer that does not read', async () => {
  await using listener = await listen(ids.server)
  const connections = await pair(listener)
  const { near } = await streams(connections)
  while (near.write(Buffer.alloc(100_000)) > 0);
  const start = performance.now()
  const end = closed(connections.client)
  connections.client.close(1n, 'bye')
  assert.deepEqual(await end, { code: 1n, reason: 'bye', remote: false, application: true })
  assert.ok(performance.now() - start < 3000)
})

test('after the end every call is harmless, on streams and connections', async () => {
  await using listener = await listen(ids.server)
  const connections = await pair(listener)
  const { near, far } = await streams(connections)
  const ends = Promise.all([closed(connections.client), closed(connections.server), streamClosed(near), streamClosed(far)])
  connections.client.close(5n)
  connections.client.close(6n)
  assert.equal(near.write(Buffer.from('x')), 0)
  const [info, remoteInfo] = await ends
  assert.equal(info.code, 5n)
  assert.equal(remoteInfo.code, 5n)
  for (const stream of [near, far]) {
    assert.equal(stream.write(Buffer.from('x')), 0)
    assert.equal(stream.read(Buffer.alloc(1)), -1)
    stream.finish()
    stream.reset(0n)
  }
  for (const connection of [connections.client, connections.server]) {
    connection.close()
    const dead = connection.openStream()
    assert.equal(dead.write(Buffer.from('x')), 0)
    assert.equal(dead.read(Buffer.alloc(1)), -1)
    await streamClosed(dead)
  }
  // Whoever asks too late is told all the same.
  assert.equal((await pairClosedLate()).code, 0n)

  async function pairClosedLate(): Promise<{ code: bigint }> {
    const { client, server } = await pair(listener)
    client.close()
    await until(() => client.openStream().id === -1n, 'the client has ended')
    await until(() => server.openStream().id === -1n, 'the server has noticed')
    return closed(server)
  }
})

test('callbacks may throw, and may close what they are called for', async () => {
  await using listener = await listen(ids.server)
  const { client, server } = await pair(listener)
  const uncaught: unknown[] = []
  const onUncaught = (error: unknown): void => void uncaught.push(error)
  process.removeAllListeners('uncaughtException')
  process.on('uncaughtException', onUncaught)
  after(() => process.off('uncaughtException', onUncaught))
  server.onStream = (stream) => {
    stream.onReadable = () => {
      stream.reset(1n)
      throw new Error('thrown in onReadable')
    }
  }
  const first = client.openStream()
  const told = streamClosed(first)
  first.write(Buffer.from('x'))
  await told
  await until(() => uncaught.length === 1, 'the error surfaces')
  assert.match(String(uncaught[0]), /thrown in onReadable/)
  process.off('uncaughtException', onUncaught)

  const end = closed(client)
  server.onStream = (stream) => {
    stream.onReadable = () => server.close(3n)
  }
  client.openStream().write(Buffer.from('x'))
  assert.equal((await end).code, 3n)
})

test('callbacks never come from within a call', async () => {
  await using listener = await listen(ids.server)
  const { client, server } = await pair(listener)
  echo(server)
  let within = false
  const stream = client.openStream()
  const checked = (): void => assert.equal(within, false)
  stream.onReadable = checked
  stream.onWritable = checked
  stream.onClosed = checked
  const end = new Promise<void>((resolve) => {
    client.onClosed = () => {
      checked()
      resolve()
    }
  })
  for (let number = 0; number < 200; number++) {
    within = true
    stream.write(Buffer.alloc(50_000))
    stream.read(Buffer.alloc(1000))
    within = false
    if (number % 20 === 0) await new Promise((resolve) => setImmediate(resolve))
  }
  within = true
  client.close()
  within = false
  await end
})

test('a listener closes its connections with code and reason; closing and disposing twice is harmless', async () => {
  const listener = await listen(ids.server)
  const { client } = await pair(listener)
  const end = closed(client)
  const first = listener.close(11n, 'going down')
  assert.equal(listener.close(12n), first)
  await first
  await listener[Symbol.asyncDispose]()
  assert.deepEqual(await end, { code: 11n, reason: 'going down', remote: true, application: true })
  // The port is free again.
  const again = await quic.listen({ address: listener.address, alpn: ALPN, credentials: ids.server, limits })
  await again.close()
})

test('a port in use and an address that is not ours are named', async () => {
  await using listener = await listen(ids.server)
  const options = { alpn: ALPN, credentials: ids.server, limits }
  await assert.rejects(quic.listen({ ...options, address: listener.address }), { code: 'PORT_IN_USE' })
  await assert.rejects(quic.listen({ ...options, address: { host: '203.0.113.1', port: 0 } }), { code: 'BAD_ARGUMENT' })
})

test('idle connections cost little memory and no time', async (t) => {
  const count = 100
  await using listener = await listen(ids.server, { maxConnections: 1000, maxConnectionsPerAddress: 1000 })
  listener.onConnection = echo
  const connections: QuicConnection[] = []
  const before = process.memoryUsage.rss()
  while (connections.length < count) {
    connections.push(...(await Promise.all(Array.from({ length: 20 }, () => dial(listener, ids.client)))))
  }
  const perPair = (process.memoryUsage.rss() - before) / count
  const stream = connections[0]!.openStream()
  await writeAll(stream, Buffer.from('x'))
  await readBytes(stream, 1)
  const start = process.cpuUsage()
  for (let number = 0; number < 200; number++) {
    await writeAll(stream, Buffer.alloc(200))
    await readBytes(stream, 200)
  }
  const cpu = process.cpuUsage(start)
  const us = (cpu.user + cpu.system) / 200
  t.diagnostic(`${Math.round(perPair / 1024)} KiB for both ends of a connection, ${Math.round(us)} µs of CPU for a round trip`)
  assert.ok(perPair < 1024 * 1024)
  assert.ok(us < 5000)
  for (const connection of connections) connection.close()
})

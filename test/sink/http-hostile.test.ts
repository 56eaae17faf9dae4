/** Requests that no client would send, and clients that never come to an end. The server goes on serving the others. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect as connectHttp2, constants } from 'node:http2'
import { connect as connectTcp } from 'node:net'
import { request as requestHttps } from 'node:https'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import { after, before, describe, test } from 'node:test'
import { createAuthority } from '../support/certificates.ts'
import { Random, testSeed } from '../support/random.ts'
import { FakeSink } from './fake-sink.ts'
import { fakeSegment } from './fake-wal.ts'
import { json, served, type Served } from './http-support.ts'

/** More of them by hand: TEST_REQUESTS=10000. */
const requests = Number(process.env['TEST_REQUESTS'] ?? 1_000)
const NAME = '000000010000000000000003'

/** All that comes until the other side ends the connection. */
async function toTheEnd(socket: TLSSocket): Promise<string> {
  let text = ''
  socket.setEncoding('latin1').on('data', (piece: string) => (text += piece))
  if (!socket.destroyed) await new Promise((resolve) => socket.once('close', resolve))
  return text
}

describe('a hostile client', () => {
  const sink = new FakeSink()
  let http: Served
  before(async () => {
    sink.hold(NAME, fakeSegment(3n))
    http = await served(sink, { requestMs: 400, idleMs: 1_500, stallMs: 400, downloadMs: 1_000, slowestBytesPerSecond: 1024 * 1024, bodyBytes: 10_000, eventStreams: 2, downloads: 4, connections: 60 })
  })
  after(() => http[Symbol.asyncDispose]())
  const stillServes = async (): Promise<void> => {
    assert.equal((await http.ask('/v1/status')).status, 200)
    assert.equal((await http.ask('/v1/status', { http2: true })).status, 200)
  }

  test('no certificate, one of a stranger, one that has ended, one for servers, older TLS: not even a handshake', async () => {
    const stranger = await (await createAuthority('stranger')).issue({ name: 'admin', use: 'client' })
    const ended = await http.authority.issue({ name: 'admin', use: 'client', notBefore: new Date(Date.now() - 7_200_000), notAfter: new Date(Date.now() - 3_600_000) })
    const wrongUse = await http.authority.issue({ name: 'admin', use: 'server' })
    for (const options of [{}, stranger, ended, wrongUse, { ...http.identities.admin, maxVersion: 'TLSv1.2' as const }]) {
      const socket = connectTls({ host: '127.0.0.1', port: http.server.port, ca: http.authority.cert, ALPNProtocols: ['http/1.1'], ...options })
      socket.on('error', () => undefined)
      socket.write('GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n')
      assert.equal(await toTheEnd(socket), '')
    }
    await stillServes()
  })

  test('smuggled paths and names', async () => {
    const paths = [
      '/v1/segments/../../../etc/passwd', '/v1/segments/..%2f..%2fetc%2fpasswd', `/v1/segments/${NAME}%00`, `/v1/segments/${NAME}.partial`, `/v1/segments/${NAME.toLowerCase().replace('3', 'a')}`,
      `//v1/segments/${NAME}`, `/v1//segments/${NAME}`, `/v1/segments/${NAME}/`, `/v1/segments/./${NAME}`, `/V1/segments/${NAME}`, `/v1/segments/000000000000000000000003`, '/v1/segments/00000001000000000000FFFF',
      '/v1/histories/..', '/v1/histories/00000001.history/..', '/v1/histories/00000000.history', '/v1/histories/sink.json', '/v1/pins/..%2f', '/v1/status%20', '/v1/status/..', `http://elsewhere/v1/segments/${NAME}`, '*', '/v1/segments?after=../x', '/v1/segments?limit=1e9', '/v1/segments?limit=-1',
    ]
    for (const path of paths)
      for (const http2 of [false, true]) {
        // A few of them HTTP/2 itself does not let through.
        const answer = await http.ask(path, { http2 }).catch(() => undefined)
        if (!answer && http2) continue
        assert.ok(answer)
        assert.ok(answer.status === 400 || answer.status === 405, `${path}: ${answer.status}`)
        assert.equal(json(answer).code, 'BAD_REQUEST')
      }
    for (const pin of ['A', '%2e%2e', 'x'.repeat(64)])
      assert.equal((await http.ask(`/v1/pins/${pin}`, { method: 'PUT', as: 'admin', body: '{"lsn":"0/1"}' })).status, 400, pin)
  })

  test('two requests in one, by two lengths', async () => {
    for (const headers of ['content-length: 4\r\ntransfer-encoding: chunked', 'content-length: 4\r\ncontent-length: 5', 'transfer-encoding: chunked, identity', 'content-length: +4']) {
      const socket = await http.raw()
      socket.write(`POST /v1/seal HTTP/1.1\r\nhost: x\r\n${headers}\r\n\r\n0\r\n\r\nGET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n`)
      assert.doesNotMatch(await toTheEnd(socket), /200 OK/, headers)
    }
    await stillServes()
  })

  test('headers and bodies that are too large', async () => {
    const socket = await http.raw()
    socket.write(`GET /v1/status HTTP/1.1\r\nhost: x\r\nx: ${'a'.repeat(40_000)}\r\n\r\n`)
    assert.doesNotMatch(await toTheEnd(socket), /200 OK/)
    const large = await http.ask('/v1/status', { http2: true, headers: Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`x${i}`, 'a'.repeat(4_000)])) }).catch(() => undefined)
    assert.notEqual(large?.status, 200)
    for (const http2 of [false, true]) {
      const answer = await http.ask('/v1/seal', { method: 'POST', as: 'box', body: 'x'.repeat(10_001), http2 }).catch(() => undefined)
      if (answer) assert.equal(answer.status, 400)
    }
    await stillServes()
  })

  test('a handshake, headers and a body that drip; a connection that says nothing', async () => {
    const tcp = connectTcp(http.server.port, '127.0.0.1').on('error', () => undefined)
    const idle = await http.raw()
    const inHeaders = await http.raw()
    inHeaders.write('GET /v1/status HTTP/1.1\r\n')
    const inBody = await http.raw()
    inBody.write('PUT /v1/histories/00000009.history HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n')
    const dripping = setInterval(() => [inHeaders, inBody].forEach((socket) => socket.writable && socket.write('x: 1\r\n')), 100)
    await Promise.all([toTheEnd(idle), toTheEnd(inHeaders), toTheEnd(inBody)])
    clearInterval(dripping)
    // The handshake's own limit is longer: it takes one of the connections meanwhile, and nobody else's.
    tcp.destroy()
    await stillServes()
  })

  test('a body that drips over HTTP/2', async () => {
    const session = connectHttp2(`https://127.0.0.1:${http.server.port}`, { ca: http.authority.cert, ...http.identities.box })
    session.on('error', () => undefined)
    const stream = session.request({ ':method': 'PUT', ':path': '/v1/histories/00000009.history' })
    stream.on('error', () => undefined).resume()
    const dripping = setInterval(() => stream.writable && stream.write('x'), 100)
    await new Promise((resolve) => stream.once('close', resolve))
    clearInterval(dripping)
    session.destroy()
    assert.equal(sink.kept.size, 0)
    await stillServes()
  })

  test('a download that is not read, or too slowly, ends, and its file is closed', async () => {
    const socket = await http.raw()
    socket.pause()
    socket.write(`GET /v1/segments/${NAME} HTTP/1.1\r\nhost: x\r\n\r\n`.repeat(8))
    const session = connectHttp2(`https://127.0.0.1:${http.server.port}`, { ca: http.authority.cert, ...http.identities.reader })
    session.on('error', () => undefined)
    const stream = session.request({ ':path': `/v1/segments/${NAME}` })
    stream.on('error', () => undefined)
    await once(stream, 'response')
    stream.pause()
    for (const startedAt = performance.now(); sink.open > 0 || performance.now() - startedAt < 500; await new Promise((resolve) => setTimeout(resolve, 50)))
      assert.ok(performance.now() - startedAt < 8_000, `${sink.open} files are still open`)
    socket.destroy()
    session.destroy()
    await stillServes()
  })

  test('too many downloads, event streams, connections', async () => {
    const streams: TLSSocket[] = []
    for (let i = 0; i < 2; i++) {
      const socket = await http.raw()
      socket.write('GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n')
      await once(socket, 'data')
      streams.push(socket)
    }
    const third = await http.ask('/v1/events')
    assert.deepEqual([third.status, json(third).code, third.headers['retry-after']], [503, 'TOO_MANY', '1'])
    for (const socket of streams) socket.destroy()
    const many = await Promise.all(Array.from({ length: 80 }, async () => {
      const socket = connectTcp(http.server.port, '127.0.0.1').on('error', () => undefined)
      await once(socket, 'connect')
      return socket
    }))
    for (const socket of many) socket.destroy()
    for (let i = 0; ; i++) {
      const isServed = await stillServes().then(() => true, () => false)
      if (isServed) break
      assert.ok(i < 50, 'it never came back')
    }
  })

  test('streams that are opened and reset at once', async () => {
    const session = connectHttp2(`https://127.0.0.1:${http.server.port}`, { ca: http.authority.cert, ...http.identities.reader })
    session.on('error', () => undefined)
    await once(session, 'connect')
    for (let i = 0; i < 1_000 && !session.destroyed; i++) {
      const stream = session.request({ ':path': `/v1/segments/${NAME}` })
      stream.on('error', () => undefined)
      stream.close(constants.NGHTTP2_CANCEL)
      if (i % 100 === 0) await new Promise(setImmediate)
    }
    session.destroy()
    await stillServes()
  })

  test(`${requests} random requests (seed ${testSeed})`, async () => {
    const random = new Random(testSeed)
    const words = ['/v1/', 'segments', 'histories', 'pins', 'status', 'seal', '/', '..', '%2e', NAME, '00000002.history', '?', 'limit=', 'after=', '&', '9', '\u00ff', '.', '*', ';']
    const methods = ['GET', 'HEAD', 'PUT', 'POST', 'DELETE', 'OPTIONS', 'TRACE', 'PATCH', 'PURGE']
    const session = connectHttp2(`https://127.0.0.1:${http.server.port}`, { ca: http.authority.cert, ...http.identities.reader })
    session.on('error', () => undefined)
    await once(session, 'connect')
    const statuses = new Set<number>()
    const one = async (): Promise<void> => {
      const path = `/${Array.from({ length: random.integer(0, 6) }, () => random.pick(words)).join('')}`
      const stream = session.request({ ':path': encodeURI(path), ':method': random.pick(methods), ...(random.chance(0.3) ? { range: `bytes=${random.integer(-5, 2_000_000)}-` } : {}) })
      stream.on('error', () => undefined)
      stream.on('response', (headers) => statuses.add(headers[':status'] ?? 0))
      stream.end(random.chance(0.2) && !stream.writableEnded ? random.bytes(random.integer(0, 50)) : undefined)
      stream.resume()
      await new Promise((resolve) => stream.once('close', resolve))
    }
    for (let round = 0; round < requests / 20; round++) await Promise.all(Array.from({ length: 20 }, one))
    session.destroy()
    assert.ok([...statuses].every((status) => [200, 206, 400, 403, 404, 405, 416, 503].includes(status)), [...statuses].join())
    // The rest is bytes that are no requests at all.
    for (let i = 0; i < requests / 200; i++) {
      const socket = await http.raw()
      socket.write(Buffer.concat(Array.from({ length: 20 }, () => Buffer.concat([random.bytes(random.integer(1, 100)), Buffer.from(random.pick(['\r\n', '\r\n\r\n', ' HTTP/1.1\r\n', '']))]))))
      socket.end()
      await toTheEnd(socket)
    }
    await stillServes()
  })

  test('after all that nothing is left open', async () => {
    assert.equal(sink.open, 0)
    assert.equal(sink.calls.length, 0)
    assert.equal(sink.kept.size, 0)
    const text = (await http.ask('/v1/metrics')).body.toString()
    assert.match(text, /^beyond_pg_sink_http_downloads 0$/m)
    assert.match(text, /^beyond_pg_sink_http_event_streams 0$/m)
  })

  test('events come as they happen, and the latest one after a pause', async () => {
    const agent = requestHttps({ host: '127.0.0.1', port: http.server.port, path: '/v1/events', ca: http.authority.cert, ...http.identities.reader, agent: false })
    agent.end()
    const [response] = await once(agent, 'response')
    response.setEncoding('utf8')
    assert.match((await once(response, 'data'))[0], /^event: progress\ndata: \{"activity":"streaming"/)
    const { activity: _activity, ...progress } = sink.status()
    sink.events.emit('progress', { ...progress, activity: 'disk-full' })
    sink.events.emit('progress', { ...progress, activity: 'halted' })
    assert.match((await once(response, 'data'))[0], /"activity":"halted"/)
    agent.destroy()
    for (const startedAt = performance.now(); sink.events.listenerCount('progress') > 0; await new Promise((resolve) => setTimeout(resolve, 10))) assert.ok(performance.now() - startedAt < 5_000)
  })
})

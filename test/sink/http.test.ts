import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { zstdDecompressSync } from 'node:zlib'
import { FakeSink, sha256 } from './fake-sink.ts'
import { endOfPages, fakeSegment, SEGMENT_BYTES } from './fake-wal.ts'
import { json, served, type Served } from './http-support.ts'

const CLOSED = '000000010000000000000003'
const SEALED = '000000010000000000000004'
const segment = fakeSegment(3n)

describe('a sink over HTTPS', () => {
  const sink = new FakeSink()
  let http: Served
  before(async () => {
    sink.hold(CLOSED, segment, { zstd: true })
    sink.hold(SEALED, fakeSegment(4n, { pages: 2 }), { kind: 'sealed', end: endOfPages(4n, 2) })
    sink.kept.set('00000002.history', Buffer.from('1\t0/5000000\tno recovery target specified\n'))
    http = await served(sink)
  })
  after(() => http[Symbol.asyncDispose]())

  for (const http2 of [false, true]) {
    const ask: Served['ask'] = (path, options) => http.ask(path, { ...options, http2 })
    describe(http2 ? 'HTTP/2' : 'HTTP/1.1', () => {
      test('a segment is served whole, by range, by condition, and as zstd where the client takes it', async () => {
        const path = `/v1/segments/${CLOSED}`
        const whole = await ask(path)
        assert.equal(whole.status, 200)
        assert.ok(whole.body.equals(segment))
        assert.equal(whole.headers['beyond-kind'], 'closed')
        assert.equal(whole.headers['beyond-sha256'], sha256(segment))
        const etag = whole.headers['etag']

        const range = await ask(path, { headers: { range: 'bytes=100-199' } })
        assert.equal(range.status, 206)
        assert.equal(range.headers['content-range'], `bytes 100-199/${SEGMENT_BYTES}`)
        assert.ok(range.body.equals(segment.subarray(100, 200)))
        assert.equal((await ask(path, { headers: { range: `bytes=${SEGMENT_BYTES}-` } })).status, 416)
        assert.equal((await ask(path, { headers: { range: 'bytes=100-199', 'if-range': '"other"' } })).status, 200)
        assert.equal((await ask(path, { headers: { range: 'bytes=100-199', 'if-range': etag } })).status, 206)

        const same = await ask(path, { headers: { 'if-none-match': etag } })
        assert.equal(same.status, 304)
        assert.equal(same.body.length, 0)

        const zstd = await ask(path, { headers: { 'accept-encoding': 'gzip, zstd' } })
        assert.equal(zstd.headers['content-encoding'], 'zstd')
        assert.notEqual(zstd.headers['etag'], etag)
        assert.ok(zstdDecompressSync(zstd.body).equals(segment))
        assert.equal((await ask(path, { headers: { 'accept-encoding': 'zstd;q=0' } })).headers['content-encoding'], undefined)

        const head = await ask(path, { method: 'HEAD' })
        assert.equal(head.status, 200)
        assert.equal(Number(head.headers['content-length']), SEGMENT_BYTES)
        assert.equal(head.body.length, 0)
      })

      test('the last segment of a seal says where WAL ends in it', async () => {
        const answer = await ask(`/v1/segments/${SEALED}`)
        assert.equal(answer.headers['beyond-kind'], 'sealed')
        assert.equal(answer.headers['beyond-end'], '0/404000')
        assert.equal(answer.body.length, SEGMENT_BYTES)
      })

      test('what is not there is only then a proof of the end when the sink is sealed and not attached since', async () => {
        const path = '/v1/segments/000000010000000000000005'
        sink.facts = {}
        const live = await ask(path)
        assert.equal(live.status, 404)
        assert.equal(json(live).code, 'NOT_FOUND')
        assert.equal(json(live).sealed, undefined)
        sink.seals(1, 0x404000n)
        assert.deepEqual(json(await ask(path)).sealed, { generation: '5', systemId: '7123456789012345678', timeline: 1, lsn: '0/404000', segmentBytes: SEGMENT_BYTES })
        sink.facts = { ...sink.facts, generation: 5n, activity: 'connecting' }
        assert.equal(json(await ask(path)).sealed, undefined)
        sink.facts = {}
      })

      test('status, lists in pages, histories and metrics', async () => {
        assert.equal(json(await ask('/v1/status')).generation, '4')
        const first = json(await ask('/v1/segments?limit=1'))
        assert.equal(first.segments.length, 1)
        assert.equal(first.segments[0].start, '0/300000')
        const second = json(await ask(`/v1/segments?limit=1&after=${first.next}`))
        assert.equal(second.segments[0].name, SEALED)
        assert.equal(second.next, undefined)
        assert.equal(json(await ask('/v1/histories')).histories[0].name, '00000002.history')
        assert.match((await ask('/v1/histories/00000002.history')).body.toString(), /^1\t0\/5000000/)
        const metrics = await ask('/v1/metrics')
        assert.match(metrics.body.toString(), /^beyond_pg_sink_activity\{activity="streaming"\} 1$/m)
        assert.match(metrics.body.toString(), /^beyond_pg_sink_http_requests_total\{status="200"\} \d+$/m)
      })

      test('roles: who may only read can change nothing, a box its own pins, an administrator everything', async () => {
        const body = JSON.stringify({ generation: '9', by: 'box1' })
        for (const [method, path] of [['POST', '/v1/seal'], ['POST', '/v1/attach'], ['PUT', '/v1/histories/00000003.history'], ['PUT', '/v1/pins/x'], ['DELETE', '/v1/pins/x'], ['POST', '/v1/verify']])
          assert.deepEqual([(await ask(path, { method, ...(method === 'DELETE' ? {} : { body }) })).status, path], [403, path])
        assert.equal((await ask('/v1/verify', { method: 'POST', as: 'box' })).status, 403)

        const seal = await ask('/v1/seal', { method: 'POST', body, as: 'box' })
        assert.deepEqual(json(seal).position, { timeline: 1, lsn: '0/5000060', lastRecord: '0/5000028' })
        const stale = await ask('/v1/seal', { method: 'POST', body: JSON.stringify({ generation: '3', by: 'b' }), as: 'box' })
        assert.deepEqual([stale.status, json(stale).code], [409, 'STALE_GENERATION'])
        const attach = JSON.stringify({ generation: '9', by: 'box1', conninfo: { host: '10.0.0.1', port: '5432' } })
        assert.equal((await ask('/v1/attach', { method: 'POST', body: attach, as: 'box' })).status, 200)
        assert.deepEqual(sink.calls.at(-1), ['attach', { generation: 9n, by: 'box1', conninfo: { host: '10.0.0.1', port: '5432' } }])

        const pin = JSON.stringify({ lsn: '0/1000000' })
        assert.equal((await ask('/v1/pins/box1.boot', { method: 'PUT', body: pin, as: 'box' })).status, 200)
        assert.equal((await ask('/v1/pins/other', { method: 'PUT', body: pin, as: 'box' })).status, 403)
        assert.equal((await ask('/v1/pins/box1.boot', { method: 'DELETE', as: 'admin' })).status, 200)
        assert.equal((await ask('/v1/pins/box1.boot', { method: 'DELETE', as: 'admin' })).status, 404)
        assert.deepEqual(json(await ask('/v1/verify', { method: 'POST', as: 'admin' })).gaps, [{ start: '0/1000000', end: '0/2000000' }])
      })

      test('a history that is taken can not be replaced', async () => {
        const path = `/v1/histories/0000000${http2 ? 4 : 3}.history`
        assert.equal((await ask(path, { method: 'PUT', body: 'one', as: 'box' })).status, 200)
        assert.equal((await ask(path, { method: 'PUT', body: 'one', as: 'box' })).status, 200)
        const other = await ask(path, { method: 'PUT', body: 'two', as: 'box' })
        assert.deepEqual([other.status, json(other).code], [409, 'HISTORY_DIVERGED'])
      })

      test('bodies that are not what they should be are refused', async () => {
        const bad = ['', '[]', '{', '{"generation":1,"by":"x"}', '{"generation":"0","by":"x"}', '{"generation":"1","by":"a b"}', '{"generation":"1","by":"x","more":1}', `{"generation":"1","by":"${'x'.repeat(300)}"}`]
        for (const body of bad) assert.deepEqual([(await ask('/v1/seal', { method: 'POST', body, as: 'box' })).status, body], [400, body])
        const injected = JSON.stringify({ generation: '9', by: 'b', conninfo: { host: "a\nport='1'" } })
        assert.equal((await ask('/v1/attach', { method: 'POST', body: injected, as: 'box' })).status, 400)
        const keyword = JSON.stringify({ generation: '9', by: 'b', conninfo: { passfile: '/etc/shadow' } })
        assert.equal((await ask('/v1/attach', { method: 'POST', body: keyword, as: 'box' })).status, 400)
      })

      test('unknown paths and methods', async () => {
        assert.equal((await ask('/')).status, 400)
        assert.equal((await ask('/v2/status')).status, 400)
        const answer = await ask('/v1/status', { method: 'DELETE' })
        assert.deepEqual([answer.status, answer.headers['allow']], [405, 'GET, HEAD'])
      })
    })
  }

  test('every object that was opened is closed', () => assert.equal(sink.open, 0))
})

/** Whatever a sink does: `beyond-pg-sink fetch` ends with 0 and the right file, 1 and a proof, or above 125 and no file. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { zstdCompressSync } from 'node:zlib'
import { createAuthority, type Authority, type Identity } from '../support/certificates.ts'
import { runFetch } from '../../src/cli/sink-fetch.ts'
import { sha256 } from './fake-sink.ts'
import { fakeSegment, SEGMENT_BYTES } from './fake-wal.ts'

const CLI = join(import.meta.dirname, '../../src/beyond-pg-sink.ts')
const NAME = '000000010000000000000003'
const segment = fakeSegment(3n)
const headers = { 'beyond-kind': 'closed', 'beyond-bytes': String(SEGMENT_BYTES), 'content-length': String(SEGMENT_BYTES), 'beyond-sha256': sha256(segment) }
const { 'content-length': _length, ...lengthless } = headers
const sealed = { generation: '5', systemId: '7123456789012345678', timeline: 1, lsn: '0/300000', segmentBytes: SEGMENT_BYTES }

type Result = { readonly exit: number; readonly said: string }
type Handler = (response: ServerResponse, request: IncomingMessage, attempt: number) => unknown
const notFound = (extra: object) => (response: ServerResponse) => response.writeHead(404).end(JSON.stringify({ code: 'NOT_FOUND', message: 'no', ...extra }))
const drip = async (response: ServerResponse, bytes: Buffer): Promise<void> => {
  for (let at = 0; at < bytes.length && !response.destroyed; at++) {
    response.write(bytes.subarray(at, at + 1))
    await sleep(100)
  }
}

const cases: { what: string; exit: number; handler: Handler; flags?: string[] }[] = [
  { what: 'a segment', exit: 0, handler: (response) => response.writeHead(200, headers).end(segment) },
  { what: 'compressed', exit: 0, handler: (response) => { const zstd = zstdCompressSync(segment); response.writeHead(200, { ...headers, 'content-encoding': 'zstd', 'content-length': zstd.length }).end(zstd) } },
  { what: 'no checksum, right records', exit: 0, handler: (response) => response.writeHead(200, { ...headers, 'beyond-sha256': '' }).end(segment) },
  { what: 'failing twice, then right', exit: 0, flags: ['--deadline', '10'], handler: (response, _, attempt) => (attempt < 3 ? response.writeHead(500).end() : response.writeHead(200, headers).end(segment)) },
  { what: 'cut off once, then right', exit: 0, flags: ['--deadline', '10'], handler: (response, _, attempt) => { response.writeHead(200, headers); if (attempt < 2) response.write(segment.subarray(0, 500_000), () => response.destroy()); else response.end(segment) } },
  { what: 'a proof of the end', exit: 1, handler: notFound({ sealed }) },
  { what: 'a proof of the end, told by another code', exit: 117, flags: ['--end-exit', '117'], handler: notFound({ sealed }) },
  { what: 'not found, WAL goes on behind it', exit: 200, handler: notFound({ sealed: { ...sealed, lsn: '0/300001' } }) },
  { what: 'not found, not sealed', exit: 200, handler: notFound({}) },
  { what: 'not found, a proof that is not one', exit: 200, handler: notFound({ sealed: { ...sealed, lsn: 'x' } }) },
  { what: 'not found, of another cluster', exit: 200, flags: ['--system-id', '1'], handler: notFound({ sealed }) },
  { what: 'not found, from something else', exit: 200, handler: (response) => response.writeHead(404).end('<html>') },
  { what: '500', exit: 200, handler: (response) => response.writeHead(500).end() },
  { what: '503', exit: 200, handler: (response) => response.writeHead(503).end(JSON.stringify({ code: 'NOT_FOUND', sealed })) },
  { what: 'a redirect', exit: 200, handler: (response) => response.writeHead(302, { location: '/' }).end() },
  { what: 'a reset in mid-body', exit: 200, handler: (response) => { response.writeHead(200, headers); response.write(segment.subarray(0, 300_000), () => response.destroy()) } },
  { what: 'a short body that says so', exit: 200, handler: (response) => response.writeHead(200, { ...headers, 'content-length': 8192 }).end(segment.subarray(0, 8192)) },
  { what: 'a short body without a length', exit: 200, handler: (response) => response.writeHead(200, lengthless).end(segment.subarray(0, 500_000)) },
  { what: 'a body that is too long', exit: 200, handler: (response) => response.writeHead(200, { ...headers, 'content-length': SEGMENT_BYTES + 8192 }).end(Buffer.concat([segment, Buffer.alloc(8192)])) },
  { what: 'a length that no segment has', exit: 200, handler: (response) => response.writeHead(200, { ...headers, 'beyond-bytes': '12345' }).end(segment) },
  { what: 'a bomb', exit: 200, handler: (response) => { const zstd = zstdCompressSync(Buffer.alloc(64 * 1024 * 1024)); response.writeHead(200, { ...headers, 'content-encoding': 'zstd', 'content-length': zstd.length }).end(zstd) } },
  { what: 'a flipped bit', exit: 200, handler: (response) => { const bytes = Buffer.from(segment); bytes[700_000] ^= 4; response.writeHead(200, headers).end(bytes) } },
  { what: 'a flipped bit, no checksum', exit: 200, handler: (response) => { const bytes = Buffer.from(segment); bytes[700_000] ^= 4; response.writeHead(200, { ...headers, 'beyond-sha256': '' }).end(bytes) } },
  { what: 'another segment', exit: 200, handler: (response) => { const bytes = fakeSegment(4n); response.writeHead(200, { ...headers, 'beyond-sha256': sha256(bytes) }).end(bytes) } },
  { what: 'of another cluster', exit: 200, flags: ['--system-id', '1'], handler: (response) => response.writeHead(200, headers).end(segment) },
  { what: 'still being written', exit: 200, handler: (response) => response.writeHead(200, { ...headers, 'beyond-kind': 'partial' }).end(segment) },
  { what: 'a last one that does not say where it ends', exit: 200, handler: (response) => response.writeHead(200, { ...headers, 'beyond-kind': 'sealed' }).end(segment) },
  { what: 'a slow drip', exit: 200, handler: (response) => { response.writeHead(200, headers); void drip(response, segment) } },
  { what: 'no answer', exit: 200, handler: () => undefined },
  { what: 'garbage', exit: 200, handler: (response) => response.socket?.end('SMTP\r\n') },
]

describe('beyond-pg-sink fetch', { concurrency: 8 }, () => {
  let folder: string
  let authority: Authority
  let stranger: Authority
  let client: Identity
  const servers: Server[] = []

  async function serve(handler: Handler, { serverOf = authority, clientsOf = authority } = {}): Promise<string> {
    const identity = await serverOf.issue({ name: 'sink', use: 'server', hosts: ['127.0.0.1'] })
    let attempt = 0
    const server = createServer({ ...identity, ca: clientsOf.cert, requestCert: true, rejectUnauthorized: true }, (request, response) => {
      response.on('error', () => undefined)
      handler(response, request, ++attempt)
    })
    server.on('tlsClientError', () => undefined)
    servers.push(server)
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return `https://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  const commandLine = (url: string, flags: readonly string[], destination: string): string[] => {
    const tls = ['--ca', join(folder, 'ca'), '--cert', join(folder, 'cert'), '--key', join(folder, 'key')]
    return [...(url ? ['--sink', url] : []), ...tls, '--deadline', '1', ...flags, NAME, destination]
  }

  async function fetch(url: string, flags: readonly string[], destination: string): Promise<Result> {
    let said = ''
    const exit = await runFetch(commandLine(url, flags, destination), { write: (text) => ((said += String(text)), true) })
    return { exit, said }
  }

  /** The same as a process of its own. */
  function run(url: string, flags: readonly string[], destination: string): Promise<Result> {
    const { promise, resolve } = Promise.withResolvers<Result>()
    const child = execFile(process.execPath, [CLI, 'fetch', ...commandLine(url, flags, destination)], (_error, _stdout, said) => resolve({ exit: child.exitCode ?? -1, said }))
    return promise
  }

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'fetch-'))
    authority = await createAuthority()
    stranger = await createAuthority('stranger')
    client = await authority.issue({ name: 'box', use: 'client' })
    await Promise.all([writeFile(join(folder, 'ca'), authority.cert), writeFile(join(folder, 'cert'), client.cert), writeFile(join(folder, 'key'), client.key)])
  })
  after(async () => {
    for (const server of servers) {
      server.closeAllConnections()
      server.close()
    }
    await rm(folder, { recursive: true, force: true })
  })

  async function expects(what: string, url: string, flags: readonly string[], exit: number, how = fetch): Promise<void> {
    const place = await mkdtemp(join(folder, 'to-'))
    const result = await how(url, flags, join(place, 'RECOVERYXLOG'))
    assert.equal(result.exit, exit, `${what}: ${result.said}`)
    // Nothing is left but what was asked for, and that is right.
    assert.deepEqual(await readdir(place), exit === 0 ? ['RECOVERYXLOG'] : [])
    if (exit === 0) assert.ok((await readFile(join(place, 'RECOVERYXLOG'))).equals(segment))
    if (exit === 200) assert.match(result.said, /\S/)
  }

  for (const { what, exit, handler, flags = [] } of cases) test(`${what}: ${exit}`, async () => expects(what, await serve(handler), flags, exit))

  const good: Handler = (response) => response.writeHead(200, headers).end(segment)
  test('a certificate of somebody else: 200', async () => expects('server', await serve(good, { serverOf: stranger }), [], 200))
  test('our certificate is not taken: 200', async () => expects('client', await serve(good, { clientsOf: stranger }), [], 200))
  test('nobody listens: 200', async () => expects('port', 'https://127.0.0.1:1', [], 200))
  test('one of two is down, the other has it: 0', async () => expects('two', `https://127.0.0.1:1,${await serve(good)}`, [], 0))
  test('one of two is down, the other proves the end for itself only: 200', async () => expects('two', `https://127.0.0.1:1,${await serve(notFound({ sealed }))}`, [], 200))
  test('one of two is down, and one is a quorum: 1', async () => expects('two', `https://127.0.0.1:1,${await serve(notFound({ sealed }))}`, ['--needed', '1'], 1))

  test('as a process: a file, a proof, a fault, a mistake', async () => {
    await expects('file', await serve(good), [], 0, run)
    await expects('proof', await serve(notFound({ sealed })), [], 1, run)
    await expects('fault', await serve((response) => response.writeHead(500).end()), [], 200, run)
    await expects('mistake', '', ['--no-such-flag'], 200, run)
  })

  test('mistakes in the command line never look like the end of WAL: 200', async () => {
    for (const flags of [['--no-such-flag'], ['--needed', '0'], ['--sink', 'http://x'], ['--ca', '/nowhere'], ['more', 'words'], ['--socket', '/nowhere']]) await expects(flags.join(' '), '', flags, 200)
  })
})

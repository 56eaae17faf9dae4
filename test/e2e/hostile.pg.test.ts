/** Peers with a good certificate and bad manners: the service stays up, stays small, and serves the others meanwhile. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { it } from 'node:test'
import { connect, subscribe } from '../../src/transport/client.ts'
import { envelopes, type From } from '../../src/transport/envelopes.ts'
import { ALPN, encodeFrame, frameType, type FrameType } from '../../src/transport/frame.ts'
import { opensslQuic } from '../../src/transport/openssl-quic.ts'
import type { QuicConnection } from '../../src/transport/quic.ts'
import { toLsn } from '../../src/wal/lsn.ts'
import { startCdc } from '../support/cdc.ts'
import { Collector } from '../support/collector.ts'
import { residentBytes } from '../support/memory.ts'
import { startPostgres } from '../support/postgres.ts'
import { Random, testSeed } from '../support/random.ts'

const FRAMES = Number(process.env['TEST_HOSTILE_FRAMES'] ?? 100_000)
const CONNECTIONS = 8
const STREAMS_AT_ONCE = 16
const MAX_GROWTH_BYTES = 96 * 1024 * 1024
/** A stream that the service keeps open is of no more use after this. */
const PATIENCE_MS = 100

const position = (random: Random) => ({ lsn: toLsn(BigInt(random.integer(0, 2 ** 31))), chain: random.bytes(32) })

function request(random: Random): Buffer {
  const from: From = random.pick<() => From>([
    () => ({ kind: 'beginning' }),
    () => ({ kind: 'now' }),
    () => ({ kind: 'time', micros: BigInt(random.integer(0, 2 ** 31)) ** 2n }),
    () => ({ kind: 'cursor', otherwise: 'beginning' }),
    () => ({ kind: 'position', after: position(random), checkpoints: Array.from({ length: random.integer(0, 70) }, () => position(random)) }),
    () => ({ kind: 'position', after: position(random), partial: { lsn: toLsn(1n << 62n), index: -5n }, checkpoints: [] }),
  ])()
  return encodeFrame(
    frameType.subscribe,
    envelopes.subscribe.encode({
      version: random.chance(0.9) ? 1 : random.integer(-5, 5),
      client: 'hostile',
      from,
      consumer: random.chance(0.1) ? random.pick(['../../etc/passwd', '', 'x'.repeat(1000), 'hostile']) : null,
      tables: random.chance(0.3) ? Array.from({ length: random.integer(1, 300) }, () => '*?'.repeat(random.integer(0, 100))) : [],
      operations: random.chance(0.2) ? ['insert', 'message'] : [],
    }),
  )
}

function mutated(random: Random, frame: Buffer): Buffer {
  const bytes = Buffer.from(frame)
  for (let i = random.integer(1, 8); i > 0; i--) bytes[random.integer(0, bytes.length - 1)] = random.integer(0, 255)
  // Most keep their length: others are refused before they are read.
  if (random.chance(0.8)) frame.copy(bytes, 0, 0, 5)
  return random.chance(0.2) ? bytes.subarray(0, random.integer(0, bytes.length)) : bytes
}

function hostileFrame(random: Random): Buffer {
  const what = random.next()
  if (what < 0.3) return mutated(random, request(random))
  if (what < 0.4) return request(random)
  if (what < 0.55) return encodeFrame(random.integer(0, 255) as FrameType, random.bytes(random.integer(0, 60)))
  if (what < 0.7) return encodeFrame(frameType.subscribe, random.bytes(random.integer(0, 60)))
  if (what < 0.85) return encodeFrame(frameType.ack, random.chance(0.5) ? random.bytes(random.integer(0, 50)) : envelopes.ack.encode({ position: position(random) }))
  if (what < 0.9) return mutated(random, encodeFrame(frameType.statusRequest, envelopes.statusRequest.encode({ version: 1 })))
  if (what < 0.95) return Buffer.from([0, 0, 0xff, 0xff, random.integer(0, 255), ...random.bytes(30)])
  return random.bytes(random.integer(1, 100))
}

/** One stream: some frames, and one of the ways to go. */
async function annoy(connection: QuicConnection, random: Random, frames: number): Promise<void> {
  const stream = connection.openStream()
  const into = Buffer.alloc(16 * 1024)
  const { promise: over, resolve } = Promise.withResolvers<void>()
  stream.onClosed = resolve
  stream.onReadable = () => {
    let count: number
    while ((count = stream.read(into)) !== 0) if (count === -1) return resolve()
  }
  const bytes = Buffer.concat(Array.from({ length: frames }, (_, i) => (i === 0 && random.chance(0.3) ? request(random) : hostileFrame(random))))
  stream.write(bytes)
  if (random.chance(0.3)) stream.finish()
  const timer = setTimeout(resolve, PATIENCE_MS)
  if (!random.chance(0.1)) await over
  clearTimeout(timer)
  stream.reset(BigInt(random.integer(0, 3)))
}

it(`survives ${FRAMES} random and mutated frames (seed ${testSeed})`, { timeout: 120_000 }, async (t) => {
  await using postgres = await startPostgres()
  await postgres.query('CREATE TABLE t (id int PRIMARY KEY)')
  await using cdc = await startCdc(postgres, ['--log-level', 'error', '--heartbeat', '200'])
  await using reader = new Collector(subscribe({ ...cdc.connect, from: 'beginning' }))
  const { caFile, certFile, keyFile } = cdc.connect.tls
  const credentials = { ca: readFileSync(caFile, 'utf8'), cert: readFileSync(certFile, 'utf8'), key: readFileSync(keyFile, 'utf8') }
  const writer = await postgres.client()
  let written = 0
  let writing: Promise<unknown> = Promise.resolve()
  const insert = () => (writing = writing.then(() => writer.query(`INSERT INTO t VALUES (${++written})`)))

  let left = FRAMES
  const pester = async (number: number): Promise<void> => {
    const random = new Random(testSeed + number)
    const signal = AbortSignal.timeout(100_000)
    const dial = () =>
      opensslQuic().dial({ address: { host: '127.0.0.1', port: cdc.port }, serverName: 'localhost', alpn: ALPN, credentials, idleTimeoutMs: 30_000, signal })
    let connection = await dial()
    let closed = false
    connection.onClosed = () => (closed = true)
    while (left > 0) {
      if (closed || random.chance(0.005)) {
        connection.close(BigInt(random.integer(0, 9)))
        connection = await dial()
        closed = false
        connection.onClosed = () => (closed = true)
      }
      const streams: Promise<void>[] = []
      for (let i = 0; i < STREAMS_AT_ONCE && left > 0; i++) {
        const frames = random.integer(1, 30)
        left -= frames
        try {
          streams.push(annoy(connection, random, frames))
        } catch {
          // So many streams are not allowed at once.
        }
      }
      await Promise.allSettled(streams)
      await insert()
    }
    connection.close()
  }
  const all = FRAMES
  left = Math.floor(all / 10)
  await Promise.all(Array.from({ length: CONNECTIONS }, (_, number) => pester(number)))
  const before = residentBytes(cdc.pid)
  left = all - Math.floor(all / 10)
  await Promise.all(Array.from({ length: CONNECTIONS }, (_, number) => pester(CONNECTIONS + number)))
  await reader.until('every row has come', () => reader.rows.length === written)
  await writer.end()
  const growth = residentBytes(cdc.pid) - before
  t.diagnostic(`grew by ${(growth / 1024 / 1024).toFixed(1)} MB from ${(before / 1024 / 1024).toFixed(1)} MB; ${written} rows meanwhile`)
  assert.ok(growth < MAX_GROWTH_BYTES, `grew by ${growth} bytes`)
  assert.deepEqual(reader.rows.map(({ after }) => after!['id']), Array.from({ length: written }, (_, i) => i + 1))
  assert.equal(reader.error, undefined)
  await using client = connect(cdc.connect)
  const status = await client.status()
  assert.equal(status.state, 'streaming')
  assert.equal(cdc.log(), '')
})

/** A server for bench/sink-serving.ts: FOLDER PORT stored|plain. Segments from the sink's own store, or from plain files. */
import { createReadStream, readFileSync, readdirSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import pino from 'pino'
import { serveSink } from '../src/sink/http-server.ts'
import { openStored, SegmentStore } from '../src/sink/segment-store.ts'
import type { OpenObject } from '../src/sink/sink.ts'
import { toLsn } from '../src/wal/lsn.ts'
import { FakeSink } from '../test/sink/fake-sink.ts'

const SEGMENT_BYTES = 16 * 1024 * 1024
const [folder, port, mode] = process.argv.slice(2)
const plain = join(folder, 'plain', 'v1', 'segments')

class StoredSink extends FakeSink {
  readonly store: SegmentStore
  constructor(store: SegmentStore) {
    super()
    this.store = store
  }
  override openSegment(name: string): Promise<OpenObject> {
    return openStored(this.store.get(name)!)
  }
}

class PlainSink extends FakeSink {
  override async openSegment(name: string): Promise<OpenObject> {
    const handle = await open(join(plain, name))
    return {
      bytes: SEGMENT_BYTES, etag: name, sha256: undefined, kind: 'closed', zstd: undefined,
      read: (start, end) => createReadStream('', { fd: handle, start, end: end - 1, autoClose: false, highWaterMark: 256 * 1024 }),
      [Symbol.asyncDispose]: () => handle.close(),
    }
  }
}

async function storedSink(): Promise<FakeSink> {
  const store = await SegmentStore.open(join(folder, 'store'))
  for (const name of readdirSync(plain))
    await store.put({ name, kind: 'closed', generation: 1n, end: toLsn(0n), bytes: SEGMENT_BYTES }, createReadStream(join(plain, name)) as AsyncIterable<Buffer>)
  return new StoredSink(store)
}

const sink = mode === 'stored' ? await storedSink() : new PlainSink()
sink.segmentBytes = SEGMENT_BYTES
const read = (name: string): string => readFileSync(join(folder, name), 'utf8')
const tls = { cert: read('server.crt'), key: read('server.key'), ca: read('ca.crt') }
await using _server = await serveSink({ sink, host: '127.0.0.1', port: Number(port), tls, roles: new Map(), log: pino({ level: 'silent' }) })
process.stdout.write('ready\n')
await new Promise((resolve) => process.once('SIGTERM', resolve))

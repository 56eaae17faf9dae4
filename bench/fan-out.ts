/**
 * Worker: any number of subscribers in one process, each with a connection of its own, that cut what arrives into frames and
 * count the changes. Rows are not decoded: what is measured is the service.
 */
import { readFile } from 'node:fs/promises'
import { envelopes } from '../src/transport/envelopes.ts'
import { ALPN, encodeFrame, FrameReader, frameType, MAX_SERVER_FRAME_BYTES } from '../src/transport/frame.ts'
import { opensslQuic } from '../src/transport/openssl-quic.ts'
import type { QuicConnection } from '../src/transport/quic.ts'
import { now, serveWorker } from './processes.ts'

export type FanOutTask = {
  readonly kind: 'read'
  readonly port: number
  readonly tls: { readonly caFile: string; readonly certFile: string; readonly keyFile: string }
  readonly subscribers: number
  /** Rows after which a subscriber is done. */
  readonly rows: number
}
export type FannedOut = { readonly kind: 'fanned out'; readonly startedAt: number; readonly endedAt: readonly number[]; readonly bytes: number }

const READ_BYTES = 64 * 1024

serveWorker<FanOutTask>(async ({ port, tls, subscribers, rows }, send) => {
  const [ca, cert, key] = await Promise.all([tls.caFile, tls.certFile, tls.keyFile].map((file) => readFile(file, 'utf8')))
  const quic = opensslQuic()
  const connections: QuicConnection[] = []
  for (let i = 0; i < subscribers; i++) {
    const address = { host: '127.0.0.1', port }
    connections.push(await quic.dial({ address, alpn: ALPN, credentials: { ca, cert, key }, idleTimeoutMs: 30_000, signal: AbortSignal.timeout(30_000) }))
  }
  send({ kind: 'connected' })
  let bytes = 0
  const into = Buffer.allocUnsafe(READ_BYTES)
  const startedAt = now()

  const read = (connection: QuicConnection): Promise<number> => {
    const { promise, resolve, reject } = Promise.withResolvers<number>()
    const frames = new FrameReader(MAX_SERVER_FRAME_BYTES)
    let changes = 0
    const stream = connection.openStream()
    stream.onClosed = () => reject(new Error('a stream was closed'))
    stream.onReadable = () => {
      for (let count = stream.read(into); count > 0; count = stream.read(into)) {
        bytes += count
        frames.push(into.subarray(0, count), ({ type }) => {
          if (type === frameType.change && ++changes === rows) resolve(now())
        })
      }
    }
    const request = { version: 1, client: 'bench', from: { kind: 'beginning' }, consumer: null, tables: [], operations: [] } as const
    stream.write(encodeFrame(frameType.subscribe, envelopes.subscribe.encode(request)))
    return promise
  }
  const endedAt = await Promise.all(connections.map(read))
  send({ kind: 'fanned out', startedAt, endedAt, bytes } satisfies FannedOut)
})

/** What the QUIC tests share: an authority with a server's and a client's identity, a listener, and small readers and writers. */
import assert from 'node:assert/strict'
import { quic } from '../../src/transport/openssl-quic.ts'
import type { CloseInfo, Credentials, DialOptions, QuicConnection, QuicLimits, QuicListener, QuicStream } from '../../src/transport/quic.ts'
import { createAuthority, type Authority } from '../support/certificates.ts'

export const ALPN = 'test/1'
export const limits: QuicLimits = {
  maxConnections: 64,
  maxConnectionsPerAddress: 64,
  maxStreamsPerConnection: 100,
  handshakeTimeoutMs: 5000,
  idleTimeoutMs: 30_000,
}

export type Identities = { readonly authority: Authority; readonly server: Credentials; readonly client: Credentials }

export async function createIdentities(): Promise<Identities> {
  const authority = await createAuthority()
  const server = await authority.issue({ name: 'the server', use: 'server', hosts: ['127.0.0.1', '::1', 'localhost'] })
  const client = await authority.issue({ name: 'the client', use: 'client' })
  return { authority, server: { ...server, ca: authority.cert }, client: { ...client, ca: authority.cert } }
}

export function listen(credentials: Credentials, changes: Partial<QuicLimits> = {}, host = '127.0.0.1'): Promise<QuicListener> {
  return quic.listen({ address: { host, port: 0 }, alpn: ALPN, credentials, limits: { ...limits, ...changes } })
}

export function dial(listener: QuicListener, credentials: Credentials, changes: Partial<DialOptions> = {}): Promise<QuicConnection> {
  return quic.dial({
    address: listener.address,
    alpn: ALPN,
    credentials,
    idleTimeoutMs: 30_000,
    signal: AbortSignal.timeout(15_000),
    ...changes,
  })
}

export function nextConnection(listener: QuicListener): Promise<QuicConnection> {
  return new Promise((resolve) => {
    listener.onConnection = resolve
  })
}

export function nextStream(connection: QuicConnection): Promise<QuicStream> {
  return new Promise((resolve) => {
    connection.onStream = resolve
  })
}

export function closed(connection: QuicConnection): Promise<CloseInfo> {
  return new Promise((resolve) => {
    connection.onClosed = resolve
  })
}

export function streamClosed(stream: QuicStream): Promise<void> {
  return new Promise((resolve) => {
    stream.onClosed = resolve
  })
}

/** Sends back what arrives, on every stream, and ends where the peer ends. Bounded: it reads only what it can write. */
export function echo(connection: QuicConnection): void {
  connection.onStream = (stream) => {
    const buffer = Buffer.alloc(64 * 1024)
    let pending: Buffer = Buffer.alloc(0)
    const pump = (): void => {
      for (;;) {
        if (pending.length > 0) {
          pending = pending.subarray(stream.write(pending))
          if (pending.length > 0) return
        }
        const count = stream.read(buffer)
        if (count === 0) return
        if (count < 0) {
          stream.finish()
          return
        }
        pending = buffer.subarray(0, count)
      }
    }
    stream.onReadable = pump
    stream.onWritable = pump
  }
}

export async function writeAll(stream: QuicStream, bytes: Uint8Array): Promise<void> {
  let at = 0
  while (at < bytes.length) {
    const { promise, resolve } = Promise.withResolvers<void>()
    stream.onWritable = resolve
    at += stream.write(bytes.subarray(at))
    if (at < bytes.length) await promise
  }
}

/** Reads until there are `length` bytes, or to the end of the stream. */
export async function readBytes(stream: QuicStream, length = Infinity): Promise<Buffer> {
  const parts: Buffer[] = []
  let total = 0
  const { promise, resolve } = Promise.withResolvers<void>()
  const take = (): void => {
    while (total < length) {
      const buffer = Buffer.alloc(64 * 1024)
      const count = stream.read(buffer)
      if (count === 0) return
      if (count < 0) break
      parts.push(buffer.subarray(0, count))
      total += count
    }
    resolve()
  }
  stream.onReadable = take
  take()
  await promise
  return Buffer.concat(parts)
}

/** Until it holds; the event loop goes on meanwhile. */
export async function until(condition: () => boolean, what: string, ms = 10_000): Promise<void> {
  const deadline = performance.now() + ms
  while (!condition()) {
    assert.ok(performance.now() < deadline, `waited too long until ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** Bytes that differ from place to place, so that a lost or doubled piece shows. */
export function pattern(length: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at + 4 <= length; at += 4) bytes.writeUInt32LE(Math.imul(at, 2654435761) >>> 0, at)
  return bytes
}

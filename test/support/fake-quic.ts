/**
 * QUIC in memory: connections and streams that keep the contract of quic.ts (bounded windows, callbacks from the event
 * loop, no queues) without sockets, for tests of what stands above.
 */
import { BeyondError } from '../../src/errors.ts'
import type { CloseInfo, DialOptions, Quic, QuicConnection, QuicStream } from '../../src/transport/quic.ts'

const nothing = (): void => {}

/** One end of a stream. What its peer writes waits in `#inbox`, at most `window` bytes. */
class FakeStream implements QuicStream {
  readonly id: bigint
  onReadable = nothing
  onWritable = nothing
  onClosed = nothing
  peer!: FakeStream
  readonly #window: number
  #inbox: Buffer[] = []
  #inboxBytes = 0
  #ended = false
  #finished = false
  #closed = false
  #wantsRoom = false
  #wantsBytes = true

  constructor(id: bigint, window: number) {
    this.id = id
    this.#window = window
  }

  get closed(): boolean {
    return this.#closed
  }

  /** Bytes that arrived and were not read. */
  get waiting(): number {
    return this.#inboxBytes
  }

  write(bytes: Uint8Array): number {
    if (this.#closed || this.#finished) return 0
    const count = this.peer.#take(bytes)
    if (count < bytes.length) this.#wantsRoom = true
    return count
  }

  read(into: Uint8Array): number {
    if (this.#closed) return -1
    const first = this.#inbox[0]
    if (!first) {
      if (this.#ended) return -1
      this.#wantsBytes = true
      return 0
    }
    const count = Math.min(first.length, into.length)
    into.set(first.subarray(0, count))
    this.#inboxBytes -= count
    if (count === first.length) this.#inbox.shift()
    else this.#inbox[0] = first.subarray(count)
    this.peer.#room()
    return count
  }

  finish(): void {
    if (this.#closed || this.#finished) return
    this.#finished = true
    this.peer.#end()
  }

  reset(): void {
    if (this.#closed) return
    this.#closed = true
    this.peer.lose()
  }

  lose(): void {
    if (this.#closed) return
    this.#closed = true
    setImmediate(() => this.onClosed())
  }

  #take(bytes: Uint8Array): number {
    if (this.#closed) return bytes.length
    const count = Math.min(bytes.length, this.#window - this.#inboxBytes)
    if (count > 0) {
      this.#inbox.push(Buffer.from(bytes.subarray(0, count)))
      this.#inboxBytes += count
      this.#news()
    }
    return count
  }

  #end(): void {
    this.#ended = true
    this.#news()
  }

  #news(): void {
    if (!this.#wantsBytes) return
    this.#wantsBytes = false
    setImmediate(() => !this.#closed && this.onReadable())
  }

  #room(): void {
    if (!this.#wantsRoom) return
    this.#wantsRoom = false
    setImmediate(() => !this.#closed && this.onWritable())
  }
}
export type { FakeStream }

class FakeConnection implements QuicConnection {
  readonly remote = { host: '127.0.0.1', port: 9443 }
  readonly peerName = 'peer'
  onStream: (stream: QuicStream) => void = nothing
  onClosed: (info: CloseInfo) => void = nothing
  peer!: FakeConnection
  readonly streams: FakeStream[] = []
  closed = false
  readonly #window: number

  constructor(window: number) {
    this.#window = window
  }

  openStream(): QuicStream {
    const id = BigInt(this.streams.length * 4)
    const near = new FakeStream(id, this.#window)
    const far = new FakeStream(id, this.#window)
    near.peer = far
    far.peer = near
    this.streams.push(near)
    this.peer.streams.push(far)
    if (this.closed) near.lose()
    else setImmediate(() => this.peer.onStream(far))
    return near
  }

  close(code = 0n, reason = ''): void {
    this.end({ code, reason, remote: false, application: true })
    this.peer.end({ code, reason, remote: true, application: true })
  }

  end(info: CloseInfo): void {
    if (this.closed) return
    this.closed = true
    for (const stream of this.streams) stream.lose()
    setImmediate(() => this.onClosed(info))
  }
}
export type { FakeConnection }

export type FakeServer = {
  readonly quic: Quic
  /** The server's ends of the connections, in the order they were made. */
  readonly connections: readonly FakeConnection[]
  readonly dials: readonly DialOptions[]
  /** Set: dialling fails with this. */
  refuse: BeyondError | undefined
}

/** A server that answers each stream with `onStream`. `window`: bytes that wait in a stream at most. */
export function fakeServer(onStream: (stream: QuicStream, number: number) => void, window = 64 * 1024): FakeServer {
  const connections: FakeConnection[] = []
  const dials: DialOptions[] = []
  let streams = 0
  const server: FakeServer = {
    refuse: undefined,
    connections,
    dials,
    quic: {
      listen: () => Promise.reject(new Error('not in this test')),
      async dial(options) {
        dials.push(options)
        await new Promise(setImmediate)
        if (server.refuse) throw server.refuse
        const near = new FakeConnection(window)
        const far = new FakeConnection(window)
        near.peer = far
        far.peer = near
        far.onStream = (stream) => onStream(stream, streams++)
        connections.push(far)
        return near
      },
    },
  }
  return server
}

/** Writes all, however small the window. */
export function writeAll(stream: QuicStream, bytes: Buffer): void {
  const rest = bytes.subarray(stream.write(bytes))
  if (rest.length > 0) stream.onWritable = () => writeAll(stream, rest)
}

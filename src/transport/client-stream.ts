/**
 * A QUIC stream as a subscriber uses it: small writes that never wait, reads that can be waited for.
 * Holds back no received bytes: what is not read stays in QUIC, whose flow control then stops the server.
 */
import type { QuicStream } from './quic.ts'

/** What a wait ended with. `closed`: nothing more will come after what can still be read. */
export type Waited = 'readable' | 'closed' | 'timeout' | 'aborted'

export class ClientStream {
  readonly #stream: QuicStream
  /** What QUIC has yet to take: the rest of what was begun, then the newest of the messages that replace each other. */
  #rest: Buffer | undefined
  #newest: Buffer | undefined
  #readable = true
  #closed = false
  #wake: (() => void) | undefined

  constructor(stream: QuicStream) {
    this.#stream = stream
    stream.onReadable = () => {
      this.#readable = true
      this.#wake?.()
    }
    stream.onWritable = () => this.#flush()
    stream.onClosed = () => {
      this.#closed = true
      this.#wake?.()
    }
  }

  get closed(): boolean {
    return this.#closed
  }

  /** The first message of the stream. */
  send(bytes: Buffer): void {
    this.#rest = this.#rest ? Buffer.concat([this.#rest, bytes]) : bytes
    this.#flush()
  }

  /** A message that makes earlier ones of its kind obsolete: one that has not left yet is dropped. */
  sendNewest(bytes: Buffer): void {
    this.#newest = bytes
    this.#flush()
  }

  /** Fills `into` as far as bytes are there: the count, 0 for nothing now, -1 for the end of the stream. */
  read(into: Buffer): number {
    let filled = 0
    while (filled < into.length) {
      const count = this.#stream.read(filled === 0 ? into : into.subarray(filled))
      if (count <= 0) {
        if (count === 0) this.#readable = false
        return filled > 0 ? filled : count
      }
      filled += count
    }
    return filled
  }

  /** Waits until there may be something to read, after `read` has answered 0. */
  async wait(timeoutMs: number, signal: AbortSignal): Promise<Waited> {
    if (this.#readable) return 'readable'
    if (this.#closed) return 'closed'
    if (signal.aborted) return 'aborted'
    const { promise, resolve } = Promise.withResolvers<Waited>()
    const timer = setTimeout(() => resolve('timeout'), timeoutMs)
    const onAbort = () => resolve('aborted')
    signal.addEventListener('abort', onAbort, { once: true })
    const wake = () => resolve(this.#readable ? 'readable' : 'closed')
    this.#wake = wake
    try {
      return await promise
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
      if (this.#wake === wake) this.#wake = undefined
    }
  }

  /** Says goodbye: the server ends its side when it has read so. Waits for that, then gives the stream up. */
  async end(timeoutMs: number): Promise<void> {
    if (this.#closed) return
    const into = Buffer.allocUnsafe(16 * 1024)
    const late = AbortSignal.timeout(timeoutMs)
    this.#stream.finish()
    while (!this.#closed && !late.aborted) {
      const count = this.read(into)
      if (count === -1) return
      if (count === 0) await this.wait(timeoutMs, late)
    }
    this.reset(0n)
  }

  /** No more bytes from here; what was written is still delivered. */
  finish(): void {
    if (!this.#closed) this.#stream.finish()
  }

  reset(code: bigint): void {
    if (!this.#closed) this.#stream.reset(code)
  }

  #flush(): void {
    while (!this.#closed) {
      const bytes = this.#rest ?? this.#newest
      if (!bytes) return
      if (!this.#rest) this.#newest = undefined
      const count = this.#stream.write(bytes)
      this.#rest = count < bytes.length ? bytes.subarray(count) : undefined
      if (this.#rest) return
    }
  }
}

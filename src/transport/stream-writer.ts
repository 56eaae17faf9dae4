/** Writes of any size to a QUIC stream, as a promise that resolves when the stream has taken every byte. */
import { BeyondError } from '../errors.ts'
import type { QuicStream } from './quic.ts'

export class StreamWriter {
  readonly #stream: QuicStream
  #closed = false
  #wake: (() => void) | undefined

  constructor(stream: QuicStream) {
    this.#stream = stream
    stream.onWritable = () => this.#continue()
  }

  /** Bytes are copied by QUIC, so the buffer is free again afterwards. One write at a time. */
  async write(bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    let done = this.#stream.write(bytes)
    while (done < bytes.length) {
      if (this.#closed) throw new BeyondError('UNREACHABLE', 'The peer has closed the stream.')
      if (signal.aborted) throw signal.reason
      const { promise, resolve } = Promise.withResolvers<void>()
      this.#wake = resolve
      const onAbort = () => resolve()
      signal.addEventListener('abort', onAbort, { once: true })
      await promise
      signal.removeEventListener('abort', onAbort)
      done += this.#stream.write(done === 0 ? bytes : bytes.subarray(done))
    }
  }

  /** To be called when the stream is gone. */
  close(): void {
    this.#closed = true
    this.#continue()
  }

  #continue(): void {
    const wake = this.#wake
    this.#wake = undefined
    wake?.()
  }
}

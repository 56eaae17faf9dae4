/** Standard output as a place that may be slow, or go away: `| less` makes us wait, `| head` ends us in peace. */
import type { Writable } from 'node:stream'

export class Output {
  readonly #stream: Writable
  readonly #gone = new AbortController()
  #failure: NodeJS.ErrnoException | undefined

  constructor(stream: Writable) {
    this.#stream = stream
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') this.#failure = error
      this.#gone.abort()
    })
  }

  /** Aborts when nobody reads any more. */
  get gone(): AbortSignal {
    return this.#gone.signal
  }

  /** Resolves when the text has left this process, or nobody reads any more. Rejects when it can't be written (a full disk). */
  async write(text: string): Promise<void> {
    if (text === '') return
    await new Promise<void>((resolve) => {
      if (this.#gone.signal.aborted) return resolve()
      this.#gone.signal.addEventListener('abort', () => resolve(), { once: true })
      this.#stream.write(text, () => resolve())
    })
    if (this.#failure) throw this.#failure
  }
}

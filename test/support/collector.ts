/** Reads a subscription in the background and keeps what it gave, for tests to wait on. */
import type { BeyondError, ChangeEvent, CommitEvent, RowEvent, Subscription } from '../../src/transport/client.ts'
import { until } from './postgres.ts'

export class Collector implements AsyncDisposable {
  readonly subscription: Subscription
  readonly events: ChangeEvent[] = []
  error: BeyondError | undefined
  ended = false
  readonly #reading: Promise<void>

  constructor(subscription: Subscription) {
    this.subscription = subscription
    this.#reading = this.#read()
  }

  get rows(): RowEvent[] {
    return this.events.filter((event): event is RowEvent => event.kind === 'insert' || event.kind === 'update' || event.kind === 'delete')
  }

  get commits(): CommitEvent[] {
    return this.events.filter((event): event is CommitEvent => event.kind === 'commit')
  }

  /** Waits until what has come satisfies `condition`; fails when the subscription has ended before. */
  async until(what: string, condition: () => boolean, timeoutMs?: number): Promise<void> {
    await until(what, () => {
      if (!condition() && this.ended) throw new Error(`the subscription ended before ${what}: ${this.error?.code}: ${this.error?.message}`)
      return condition()
    }, timeoutMs)
  }

  /** Waits for the error that ends the subscription. */
  async failure(timeoutMs?: number): Promise<BeyondError> {
    await until('the subscription has failed', () => this.ended, timeoutMs)
    if (!this.error) throw new Error('the subscription ended without an error')
    return this.error
  }

  async #read(): Promise<void> {
    try {
      for await (const event of this.subscription) this.events.push(event)
    } catch (error) {
      this.error = error as BeyondError
    }
    this.ended = true
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.subscription.close()
    await this.#reading
  }
}

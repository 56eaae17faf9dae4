/**
 * The client library: `import { subscribe } from 'beyond-pg/client'`.
 *
 *     const changes = subscribe({
 *       server: 'localhost:9443',
 *       tls: { caFile: 'ca.pem', certFile: 'client.pem', keyFile: 'client.key' },
 *       from: 'beginning',
 *     })
 *     for await (const event of changes) {
 *       if (event.kind === 'insert') console.log(event.table.name, event.after)
 *     }
 *
 * Every committed change comes once, in commit order, whatever happens to the connection. docs/client.md is the guide.
 */
import { ClientDialer } from './client-dialer.ts'
import { clientName, subscriptionConfig, type ConnectOptions, type SubscribeOptions } from './client-options.ts'
import { requestStatus } from './client-status.ts'
import { Subscription } from './client-subscription.ts'
import type { Status } from './envelopes.ts'

export { BeyondError, type ErrorCode } from '../errors.ts'
export { formatLsn, type Lsn } from '../wal/lsn.ts'
export {
  unchanged,
  type Begin as BeginEvent,
  type ChangeEvent,
  type Column,
  type Commit as CommitEvent,
  type DeleteEvent,
  type InsertEvent,
  type Message as MessageEvent,
  type Progress as ProgressEvent,
  type Row,
  type RowEvent,
  type SchemaChange as SchemaEvent,
  type Table,
  type TransactionInfo,
  type Truncate as TruncateEvent,
  type UpdateEvent,
  type Value,
} from './client-events.ts'
export type { ConnectOptions, SubscribeOptions, SubscriptionState, TlsOptions } from './client-options.ts'
export type { Subscription, TransactionPart } from './client-subscription.ts'
export type { Operation, Position, Status, SubscriberStatus, Welcome } from './envelopes.ts'
export { formatPosition, parsePosition, type StreamPosition } from './position.ts'

const STATUS_TIMEOUT_MS = 10_000
const DEFAULT_CLIENT = 'beyond-pg/client'

/** One connection to a server, shared by any number of subscriptions. Nothing is dialled before it is needed. */
export class Client implements AsyncDisposable {
  readonly #dialer: ClientDialer
  readonly #client: string
  readonly #subscriptions = new Set<Subscription>()
  readonly #closeWithLast: boolean

  /** @internal Use `connect`. */
  constructor(options: ConnectOptions, closeWithLast: boolean) {
    this.#dialer = new ClientDialer(options)
    this.#client = clientName(options.client ?? DEFAULT_CLIENT)
    this.#closeWithLast = closeWithLast
  }

  /**
   * Begins when it is read first. Throws BAD_ARGUMENT. Reading it rejects with UNREACHABLE when the first connection does not
   * succeed in time, UNAUTHENTICATED, HISTORY_BROKEN (`error.facts.shared`: the last position that both sides share),
   * POSITION_TOO_OLD, BAD_REQUEST, or PROTOCOL_VIOLATION; a connection that is lost later is made again.
   */
  subscribe(options: SubscribeOptions = {}): Subscription {
    const subscription: Subscription = new Subscription(this.#dialer, subscriptionConfig(options), {
      client: this.#client,
      signal: options.signal,
      onState: options.onState,
      onClosed: () => {
        this.#subscriptions.delete(subscription)
        if (this.#closeWithLast) this.#dialer.close()
      },
    })
    this.#subscriptions.add(subscription)
    return subscription
  }

  /** What the service says about itself, its slot, its log and its subscribers. Rejects with UNREACHABLE, UNAUTHENTICATED or TIMEOUT. */
  status(options: { readonly timeoutMs?: number; readonly signal?: AbortSignal } = {}): Promise<Status> {
    return requestStatus(this.#dialer, { timeoutMs: options.timeoutMs ?? STATUS_TIMEOUT_MS, signal: options.signal })
  }

  /** Closes every subscription, then the connection. Twice is harmless. */
  async close(): Promise<void> {
    await Promise.all([...this.#subscriptions].map((subscription) => subscription.close()))
    this.#dialer.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/**
 * For more than one subscription, or for the status:
 *
 *     await using client = connect({ server: 'localhost:9443', tls })
 *     const orders = client.subscribe({ tables: ['public.orders'], consumer: 'billing' })
 *     console.log((await client.status()).log.head)
 */
export function connect(options: ConnectOptions): Client {
  return new Client(options, false)
}

/** One subscription with a connection of its own, which ends with it. */
export function subscribe(options: ConnectOptions & SubscribeOptions): Subscription {
  return new Client(options, true).subscribe(options)
}

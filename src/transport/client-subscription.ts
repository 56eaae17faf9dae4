/**
 * A subscription as its consumer sees it: one ordered, endless sequence of events across however many connections.
 * Pulls: nothing is read from QUIC before the consumer asks, so a slow consumer stops the server and fills no memory.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Observable } from 'rxjs'
import { backoffMs } from '../backoff.ts'
import { BeyondError } from '../errors.ts'
import type { Lsn } from '../wal/lsn.ts'
import type { ClientDialer } from './client-dialer.ts'
import type { Begin, ChangeEvent, Commit, TransactionInfo } from './client-events.ts'
import type { SubscriptionConfig, SubscriptionState } from './client-options.ts'
import { ClientSession, errorFromEnd } from './client-session.ts'
import { ClientStream } from './client-stream.ts'
import { envelopes, type Position } from './envelopes.ts'
import { encodeFrame, frameType } from './frame.ts'
import { formatPosition, formatTransactionPosition, parsePosition } from './position.ts'
import type { QuicConnection } from './quic.ts'

const READ_BYTES = 64 * 1024
/** Time for the server's answer to Subscribe: it may wait some 4 s for its log to catch up with our position. */
const WELCOME_TIMEOUT_MS = 10_000
const MISSED_HEARTBEATS = 3
/** Acknowledgements that follow each other faster are put together. */
const ACKNOWLEDGE_MS = 100
/** How long `close` waits for the server to take the last acknowledgement. */
const END_TIMEOUT_MS = 1_000
const PROTOCOL_VIOLATION = 1n

/** A transaction in one piece, or the next piece of a long one. */
export type TransactionPart = {
  readonly transaction: TransactionInfo
  /** Everything in it but begin and commit. */
  readonly events: readonly Exclude<ChangeEvent, Begin | Commit | { kind: 'progress' }>[]
  /** false: more of the same transaction follows. */
  readonly complete: boolean
  /** After these events. */
  readonly position: string
}

type Attached = { readonly connection: QuicConnection; readonly stream: ClientStream; streaming: boolean }

export class Subscription implements AsyncIterable<ChangeEvent>, AsyncDisposable {
  readonly #dialer: ClientDialer
  readonly #config: SubscriptionConfig
  readonly #session: ClientSession
  readonly #onState: (state: SubscriptionState) => void
  readonly #onClosed: () => void
  readonly #closing = new AbortController()
  readonly #buffer = Buffer.allocUnsafe(READ_BYTES)

  #attached: Attached | undefined
  #taken = false
  #closed: Promise<void> | undefined
  /** An error that came behind events which the consumer gets first. */
  #deferred: unknown
  /** Failures since the stream last worked, and since when there are. */
  #failures = 0
  #failingSince = performance.now()
  #hasStreamed = false
  /** Events that were handed out of the last batch; the batch's rest is still to come. */
  #handedOut: ChangeEvent | undefined
  #outstanding = 0
  /** Newest transaction of the batch that the consumer is through with. */
  #processed: Commit | undefined

  /** Newest transaction that was given out whole. */
  #delivered: Lsn | undefined
  #acknowledged: Position | undefined
  #acknowledgedAt = -Infinity
  #acknowledgeTimer: NodeJS.Timeout | undefined

  /** `onClosed`: called once, when this subscription needs the dialer no more. */
  constructor(
    dialer: ClientDialer,
    config: SubscriptionConfig,
    context: { client: string; signal?: AbortSignal | undefined; onState?: ((state: SubscriptionState) => void) | undefined; onClosed: () => void },
  ) {
    this.#dialer = dialer
    this.#config = config
    this.#onState = context.onState ?? (() => {})
    this.#onClosed = context.onClosed
    const { start, consumer, tables, operations, progress, maxFrameBytes } = config
    this.#session = new ClientSession({ client: context.client, start, consumer, tables, operations, progress, maxFrameBytes })
    const { signal } = context
    if (signal?.aborted) void this.close()
    else {
      const onAbort = () => void this.close()
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#closing.signal.addEventListener('abort', () => signal?.removeEventListener('abort', onAbort), { once: true })
    }
  }

  /** After the last event that was handed out: begin here to go on. Undefined until the server has told where the stream begins. */
  get position(): string | undefined {
    if (this.#outstanding > 0 && this.#handedOut) return this.#handedOut.position
    const position = this.#session.position
    return position && formatPosition(position)
  }

  /** Older positions, newest first, at most 64: to be kept beside a position that is kept. */
  get checkpoints(): readonly string[] {
    return this.#session.checkpoints.map(formatTransactionPosition)
  }

  /** Events one by one. The next one is asked for when the loop's body has ended, and only then the one before is acknowledged. */
  [Symbol.asyncIterator](): AsyncIterableIterator<ChangeEvent> {
    this.#take()
    return new EventIterator(
      () => this.#nextBatch(),
      (event, left) => this.#handOut(event, left),
      () => this.close(),
    )
  }

  /** Events as they arrive together: all that one read has brought, never none. The fastest way. */
  async *batches(): AsyncGenerator<readonly ChangeEvent[], void, undefined> {
    this.#take()
    try {
      for (let batch = await this.#nextBatch(); batch; batch = await this.#nextBatch()) yield batch
    } finally {
      await this.close()
    }
  }

  /** Whole transactions. One of more than `maxEvents` comes in parts, so that memory stays bounded. */
  async *transactions(options: { readonly maxEvents?: number } = {}): AsyncGenerator<TransactionPart, void, undefined> {
    const maxEvents = options.maxEvents ?? 10_000
    let events: TransactionPart['events'][number][] = []
    for await (const event of this) {
      if (event.kind === 'begin' || event.kind === 'progress') continue
      const { transaction, position } = event
      const complete = event.kind === 'commit'
      if (!complete) events.push(event)
      if (!complete && events.length < maxEvents) continue
      const part = { transaction, events, complete, position }
      events = []
      yield part
    }
  }

  /**
   * The same events as an Observable. Subscribing opens, unsubscribing closes. An Observable can't be slowed down:
   * work that takes its time belongs into the iteration.
   */
  observable(): Observable<ChangeEvent> {
    return new Observable((subscriber) => {
      const run = async (): Promise<void> => {
        for await (const batch of this.batches())
          for (const event of batch) {
            if (subscriber.closed) return
            subscriber.next(event)
          }
        subscriber.complete()
      }
      run().catch((error: unknown) => subscriber.error(error))
      return () => void this.close()
    })
  }

  /**
   * Everything up to and with this position has been processed: an event's `position`. A position within a transaction
   * acknowledges the transaction before. Sent at leisure, kept over a lost connection; later positions replace earlier ones.
   */
  acknowledge(position: string): void {
    const { after } = parsePosition(position)
    const reached = this.#session.position?.after.lsn
    if (reached === undefined || after.lsn > reached)
      throw new BeyondError('BAD_ARGUMENT', 'A position was acknowledged that this subscription has not delivered.')
    this.#acknowledge(after)
  }

  /** Ends the subscription and the iteration over it. Twice is harmless. */
  close(): Promise<void> {
    return (this.#closed ??= this.#close())
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #take(): void {
    if (this.#taken) throw new BeyondError('BAD_ARGUMENT', 'A subscription can be read once: make another one, from its position.')
    this.#taken = true
    this.#failingSince = performance.now()
  }

  #handOut(event: ChangeEvent, left: number): void {
    if (this.#handedOut?.kind === 'commit') {
      this.#processed = this.#handedOut
      if (performance.now() - this.#acknowledgedAt > ACKNOWLEDGE_MS) this.#acknowledgeProcessed()
    }
    this.#handedOut = event
    this.#outstanding = left
  }

  #acknowledgeProcessed(): void {
    if (this.#processed && this.#config.acknowledge === 'auto') this.acknowledge(this.#processed.position)
    this.#processed = undefined
  }

  /** The next events; undefined when closed. Asking for them says that the ones before have been processed. */
  async #nextBatch(): Promise<ChangeEvent[] | undefined> {
    this.#handedOut = this.#processed = undefined
    this.#outstanding = 0
    if (this.#config.acknowledge === 'auto' && this.#hasStreamed && this.#session.position) this.#acknowledge(this.#session.position.after)
    const out: ChangeEvent[] = []
    while (!this.#closing.signal.aborted) {
      try {
        if (this.#deferred !== undefined) {
          const error = this.#deferred
          this.#deferred = undefined
          throw error
        }
        this.#attached ??= await this.#attach()
        await this.#receive(this.#attached, out)
      } catch (error) {
        if (this.#closing.signal.aborted) break
        if (out.length > 0) this.#deferred = error
        else await this.#recover(error)
      }
      if (out.length > 0) {
        this.#delivered = out.findLast((event) => event.kind === 'commit')?.transaction.lsn ?? this.#delivered
        return out
      }
    }
    await this.close()
    return undefined
  }

  async #attach(): Promise<Attached> {
    this.#onState({ status: 'connecting' })
    const { signal } = this.#closing
    const left = this.#hasStreamed ? Infinity : this.#failingSince + this.#config.connectTimeoutMs - performance.now()
    const deadline = Number.isFinite(left) ? AbortSignal.timeout(Math.max(1, Math.ceil(left))) : undefined
    try {
      const connection = await this.#dialer.acquire(deadline ? AbortSignal.any([signal, deadline]) : signal)
      const stream = new ClientStream(connection.openStream())
      stream.send(this.#session.open())
      return { connection, stream, streaming: false }
    } catch (error) {
      if (deadline?.aborted && !signal.aborted && !(error instanceof BeyondError))
        throw new BeyondError(
          'UNREACHABLE',
          `Nothing answered at ${this.#dialer.server} within ${this.#config.connectTimeoutMs} ms.`,
          { cause: error },
        )
      throw error
    }
  }

  /** Reads what is there into `out`, or waits for something. */
  async #receive(attached: Attached, out: ChangeEvent[]): Promise<void> {
    const { stream, connection } = attached
    const count = stream.read(this.#buffer)
    if (count === -1) throw this.#dialer.lossError()
    if (count > 0) {
      try {
        this.#session.push(this.#buffer.subarray(0, count), out)
      } finally {
        if (this.#session.welcome) this.#onWorking(attached)
      }
      if (out.length === 0) this.#acknowledgeSilence()
      if (this.#session.ended) throw errorFromEnd(this.#session.ended)
      return
    }
    const { welcome } = this.#session
    const waited = await stream.wait(welcome ? welcome.heartbeatMs * MISSED_HEARTBEATS : WELCOME_TIMEOUT_MS, this.#closing.signal)
    if (waited === 'closed') throw this.#dialer.lossError()
    if (waited === 'timeout') {
      this.#dialer.abandon(connection)
      throw new BeyondError(
        'UNREACHABLE',
        welcome ? `The service was silent for ${MISSED_HEARTBEATS} heartbeats.` : 'The service did not answer the subscription.',
      )
    }
  }

  /** The stream went on without anything for the consumer: who has acknowledged all that was delivered has acknowledged this, too. */
  #acknowledgeSilence(): void {
    const position = this.#session.position?.after
    const owesNothing = this.#delivered === undefined || (this.#acknowledged !== undefined && this.#acknowledged.lsn >= this.#delivered)
    if (position && (this.#config.acknowledge === 'auto' || owesNothing)) this.#acknowledge(position)
  }

  #onWorking(attached: Attached): void {
    this.#failures = 0
    if (attached.streaming) return
    attached.streaming = true
    const resumed = this.#hasStreamed
    this.#hasStreamed = true
    if (this.#acknowledged && resumed) this.#sendAcknowledgement()
    this.#onState({ status: 'streaming', welcome: this.#session.welcome!, resumed })
  }

  /** After a failure: throws when there is no hope, else waits for the next attempt. */
  async #recover(failure: unknown): Promise<void> {
    const attached = this.#attached
    this.#attached = undefined
    attached?.stream.reset(failure instanceof BeyondError && failure.code === 'PROTOCOL_VIOLATION' ? PROTOCOL_VIOLATION : 0n)
    const now = performance.now()
    if (this.#failures === 0 && this.#hasStreamed) this.#failingSince = now
    const retryAfterMs = failure instanceof BeyondError ? failure.facts['retryAfterMs'] : undefined
    const random = Math.random()
    const wishMs = Math.max(backoffMs(++this.#failures, random, this.#config.backoff), Number(retryAfterMs ?? 0) * (1 + random / 4))
    const patienceMs = this.#hasStreamed ? this.#config.giveUpAfterMs : this.#config.connectTimeoutMs
    const leftMs = this.#failingSince + patienceMs - now
    if (!(failure instanceof BeyondError) || !(failure.retry || retryAfterMs !== undefined) || leftMs <= 0) {
      await this.close()
      throw failure
    }
    const delayMs = Math.min(wishMs, leftMs)
    this.#onState({ status: 'waiting', error: failure, attempt: this.#failures, delayMs })
    await abortableSleep(delayMs, this.#closing.signal)
  }

  #acknowledge(position: Position): void {
    const last = this.#acknowledged
    if (last && (position.lsn < last.lsn || (position.lsn === last.lsn && Buffer.compare(position.chain, last.chain) === 0))) return
    this.#acknowledged = position
    const waitMs = this.#acknowledgedAt + ACKNOWLEDGE_MS - performance.now()
    if (waitMs <= 0) this.#sendAcknowledgement()
    else this.#acknowledgeTimer ??= setTimeout(() => this.#sendAcknowledgement(), waitMs)
  }

  #sendAcknowledgement(): void {
    clearTimeout(this.#acknowledgeTimer)
    this.#acknowledgeTimer = undefined
    if (!this.#acknowledged || !this.#attached?.streaming) return
    this.#acknowledgedAt = performance.now()
    this.#attached.stream.sendNewest(encodeFrame(frameType.ack, envelopes.ack.encode({ position: this.#acknowledged })))
  }

  async #close(): Promise<void> {
    this.#closing.abort()
    this.#acknowledgeProcessed()
    if (this.#acknowledgeTimer) this.#sendAcknowledgement()
    const attached = this.#attached
    this.#attached = undefined
    if (!attached?.streaming) attached?.stream.reset(0n)
    await (attached?.streaming ? attached.stream.end(END_TIMEOUT_MS) : undefined)
    this.#onState({ status: 'closed' })
    this.#onClosed()
  }
}

/** Resolves early when the signal aborts. */
async function abortableSleep(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await sleep(ms, undefined, { signal })
  } catch {
    // Aborted: whoever sleeps looks at the signal next.
  }
}

/** Hands events out one by one, and asks for a batch when the last one is used up. An event that is there costs a settled promise, no more. */
class EventIterator implements AsyncIterableIterator<ChangeEvent> {
  readonly #nextBatch: () => Promise<ChangeEvent[] | undefined>
  readonly #handOut: (event: ChangeEvent, left: number) => void
  readonly #close: () => Promise<void>
  #batch: ChangeEvent[] = []
  #at = 0
  /** Calls of `next` that came before the one before was answered stand in line. */
  #line: Promise<unknown> | undefined

  constructor(
    nextBatch: () => Promise<ChangeEvent[] | undefined>,
    handOut: (event: ChangeEvent, left: number) => void,
    close: () => Promise<void>,
  ) {
    this.#nextBatch = nextBatch
    this.#handOut = handOut
    this.#close = close
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  next(): Promise<IteratorResult<ChangeEvent, undefined>> {
    if (!this.#line && this.#at < this.#batch.length) return Promise.resolve(this.#shift())
    const result = (this.#line ?? Promise.resolve()).then(() => this.#refill())
    const line: Promise<unknown> = result.then(
      () => this.#leave(line),
      () => this.#leave(line),
    )
    this.#line = line
    return result
  }

  async return(): Promise<IteratorResult<ChangeEvent, undefined>> {
    await this.#close()
    return { done: true, value: undefined }
  }

  #shift(): IteratorResult<ChangeEvent, undefined> {
    const value = this.#batch[this.#at++]
    this.#handOut(value, this.#batch.length - this.#at)
    return { done: false, value }
  }

  async #refill(): Promise<IteratorResult<ChangeEvent, undefined>> {
    if (this.#at === this.#batch.length) {
      this.#batch = []
      this.#at = 0
      const batch = await this.#nextBatch()
      if (!batch) return { done: true, value: undefined }
      this.#batch = batch
    }
    return this.#shift()
  }

  #leave(line: Promise<unknown>): void {
    if (this.#line === line) this.#line = undefined
  }
}

/**
 * One subscription, the server's side: a QUIC stream that began with a Subscribe frame. Reads the log through a cursor
 * of its own and writes as fast as QUIC's flow control lets it; holds at most one piece of the log at a time.
 */
import { BeyondError, codeOf, codes } from '../errors.ts'
import type { Logger } from '../logger.ts'
import { formatLsn } from '../wal/lsn.ts'
import { envelopes, type Position, type Subscribe, type SubscriberStatus } from './envelopes.ts'
import { encodeFrame, frameType, PROTOCOL_VERSION, type Frame } from './frame.ts'
import { HistoryBroken, type LogPiece, type LogReader, type ReadableLog } from './readable-log.ts'
import type { StreamWriter } from './stream-writer.ts'
import { SubscriptionFilter } from './subscription-filter.ts'

export type SessionContext = {
  readonly log: ReadableLog
  readonly logger: Logger
  readonly server: string
  readonly heartbeatMs: number
  readonly now: () => number
}

export type SessionPeer = { readonly id: bigint; readonly name: string; readonly address: string }

/** What a client is told to wait before it tries again. Milliseconds. */
const RETRY_AFTER_MS = 250

/** The last frame of a stream, for an error that ends it. */
export function endFrame(error: unknown): Buffer {
  const code = codeOf(error)
  // What is not ours to tell stays in the server's log.
  const message = error instanceof BeyondError ? error.message : 'The service met an internal error; its log has the details.'
  return encodeFrame(
    frameType.end,
    envelopes.end.encode({
      code,
      message,
      retryAfterMs: codes[code].retry ? RETRY_AFTER_MS : null,
      shared: error instanceof HistoryBroken ? (error.shared ?? null) : null,
    }),
  )
}

export class SubscriptionSession {
  readonly #context: SessionContext
  readonly #peer: SessionPeer
  readonly #request: Subscribe
  readonly #writer: StreamWriter
  readonly #signal: AbortSignal
  readonly #sentSchemas = new Set<bigint>()
  #reader: LogReader | undefined
  #sent: Position | undefined
  #acknowledged: Position | undefined
  #sentAt = 0
  #sentBytes = 0
  /** What was written ends with a whole frame. */
  #whole = true

  constructor(context: SessionContext, peer: SessionPeer, request: Subscribe, writer: StreamWriter, signal: AbortSignal) {
    this.#context = context
    this.#peer = peer
    this.#request = request
    this.#writer = writer
    this.#signal = signal
  }

  get consumer(): string | null {
    return this.#request.consumer
  }

  /** Whether a last frame can follow what was written. */
  get betweenFrames(): boolean {
    return this.#whole
  }

  /** Delivers until the signal aborts, which is how it ends well; throws what ends it badly. */
  async run(): Promise<void> {
    const { log, server, heartbeatMs, now } = this.#context
    if (this.#request.version !== PROTOCOL_VERSION)
      throw new BeyondError('UNSUPPORTED_VERSION', `Protocol version ${this.#request.version} is not spoken here; version ${PROTOCOL_VERSION} is.`)
    const filter = this.#filter()
    const { reader, start } = await log.open(this.#request.from, this.#request.consumer, this.#signal)
    await using _ = reader
    this.#reader = reader
    this.#sent = this.#acknowledged = start
    await this.#write(
      encodeFrame(
        frameType.welcome,
        envelopes.welcome.encode({
          version: PROTOCOL_VERSION,
          server,
          history: log.history,
          systemId: log.systemId,
          database: log.database,
          start,
          head: log.head,
          heartbeatMs,
        }),
      ),
    )
    const wake = new Wake()
    const unsubscribe = log.onAdvance(() => wake.up())
    const heartbeat = setInterval(() => wake.up(), heartbeatMs)
    const onAbort = () => wake.up()
    this.#signal.addEventListener('abort', onAbort)
    try {
      while (!this.#signal.aborted) {
        const before = wake.count
        const piece = reader.take() ?? (await reader.read())
        if (piece) await this.#deliver(piece, filter)
        if (now() - this.#sentAt >= heartbeatMs) await this.#breakSilence(piece, filter)
        if (!piece) await wake.after(before)
      }
    } finally {
      unsubscribe()
      clearInterval(heartbeat)
      this.#signal.removeEventListener('abort', onAbort)
    }
  }

  acknowledge(frame: Frame): void {
    const { position } = envelopes.ack.decode(frame.body)
    if (!this.#sent || position.lsn > this.#sent.lsn)
      throw new BeyondError('PROTOCOL_VIOLATION', `Acknowledged ${formatLsn(position.lsn)}, which has not been sent.`)
    // The start of a resumed stream may be acknowledged, too: the cursor of its consumer can be older.
    if (this.#acknowledged && position.lsn < this.#acknowledged.lsn) return
    this.#acknowledged = position
    if (this.#request.consumer !== null) this.#context.log.acknowledge(this.#request.consumer, this.#acknowledged)
  }

  /** `lag` tells how far behind the end of the log an offset is. */
  status(lag: (offset: number) => { readonly bytes: bigint; readonly ms: bigint }): SubscriberStatus {
    const { bytes, ms } = this.#reader ? lag(this.#reader.offset) : { bytes: 0n, ms: 0n }
    return {
      id: this.#peer.id,
      peer: this.#peer.name,
      address: this.#peer.address,
      client: this.#request.client,
      consumer: this.#request.consumer,
      connected: true,
      sent: this.#sent ?? null,
      acknowledged: this.#acknowledged ?? null,
      lagBytes: bytes,
      lagMs: ms,
      sentBytes: BigInt(this.#sentBytes),
    }
  }

  #filter(): SubscriptionFilter | undefined {
    const { tables, operations } = this.#request
    if (!SubscriptionFilter.needed({ tables, operations })) return undefined
    const relation = (fingerprint: bigint) => {
      const { relation } = JSON.parse(this.#context.log.schema(fingerprint)) as { relation: { schema: string; table: string } }
      return relation
    }
    return new SubscriptionFilter({ tables, operations, relation })
  }

  async #deliver(piece: LogPiece, filter: SubscriptionFilter | undefined): Promise<void> {
    await this.#sendSchemas(piece.fingerprints)
    // A piece of a long transaction may end anywhere.
    this.#whole = false
    if (filter) for (const bytes of filter.push(piece.bytes)) await this.#write(bytes)
    else await this.#write(piece.bytes)
    if (!piece.position) return
    this.#whole = true
    this.#sent = { lsn: piece.position.lsn, chain: piece.position.chain }
  }

  /** Schemas go between frames. In the middle of a long transaction all that its blocks use went out before its first piece. */
  async #sendSchemas(fingerprints: readonly bigint[]): Promise<void> {
    for (const fingerprint of fingerprints) {
      if (this.#sentSchemas.has(fingerprint)) continue
      const bytes = Buffer.alloc(8)
      bytes.writeBigUInt64LE(fingerprint)
      await this.#write(encodeFrame(frameType.schema, envelopes.schema.encode({ fingerprint: bytes, schema: this.#context.log.schema(fingerprint) })))
      this.#sentSchemas.add(fingerprint)
    }
  }

  /** Also within a long transaction that the filter leaves out, so that the subscriber hears that all is well. */
  async #breakSilence(piece: LogPiece | undefined, filter: SubscriptionFilter | undefined): Promise<void> {
    if (!piece || piece.position || filter?.holdsTransaction) return this.#progress()
    const skip = filter?.takeSkip()
    if (skip) await this.#write(skip)
  }

  async #progress(): Promise<void> {
    const { log, now } = this.#context
    const caughtUp = this.#reader!.offset >= log.end
    const walLsn = caughtUp ? log.reached : this.#sent!.lsn
    await this.#write(encodeFrame(frameType.progress, envelopes.progress.encode({ position: this.#sent!, walLsn, time: BigInt(Date.now()) * 1000n })))
    this.#sentAt = now()
  }

  async #write(bytes: Buffer): Promise<void> {
    const whole = this.#whole
    this.#whole = false
    await this.#writer.write(bytes, this.#signal)
    this.#whole = whole
    this.#sentBytes += bytes.length
    this.#sentAt = this.#context.now()
  }
}

/** Lets one waiter sleep until something has happened since it last looked. */
class Wake {
  count = 0
  #resolve: (() => void) | undefined

  up(): void {
    this.count++
    this.#resolve?.()
    this.#resolve = undefined
  }

  /** Resolves when `up` has been called since the count was `seen`. */
  after(seen: number): Promise<void> | void {
    if (this.count !== seen) return
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#resolve = resolve
    return promise
  }
}

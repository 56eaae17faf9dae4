/**
 * The client's side of one subscription, as a state machine: bytes in, events out. No sockets, no clock.
 * It outlives connections: `open` starts on a new stream and gives the bytes to send first, `push` takes what arrives.
 *
 *     opening ──Welcome──► between ──Begin──► inside ──Commit──► between
 *        └──────────End───────┴───────End───────┴────► ended
 *
 * Across streams it keeps where the subscriber stands and lets nothing through twice:
 * the first transaction of a new stream may be the one that was cut; then it must be the same one, and what was seen of it is dropped.
 */
import { BeyondError, codes, type ErrorCode } from '../errors.ts'
import { formatLsn, type Lsn } from '../wal/lsn.ts'
import { Checkpoints } from './client-checkpoints.ts'
import {
  Begin,
  Commit,
  Message,
  Progress,
  RowChange,
  SchemaChange,
  TransactionInfo,
  Truncate,
  type ChangeEvent,
  type Table,
} from './client-events.ts'
import { compileRelation, type RelationReader } from './client-row.ts'
import { envelopes, type End, type From, type Operation, type Position, type Welcome } from './envelopes.ts'
import {
  encodeFrame,
  FrameReader,
  frameType,
  PROTOCOL_VERSION,
  SINGLE_OBJECT_HEADER_BYTES,
  SINGLE_OBJECT_MARKER,
  type FrameType,
} from './frame.ts'
import { formatTransactionPosition, type StreamPosition } from './position.ts'

/** Relation versions that one stream may announce, and the length of their schemas together (UTF-16 units). */
const MAX_RELATIONS = 200_000
const MAX_SCHEMA_LENGTH = 256 * 1024 * 1024
const MIN_HEARTBEAT_MS = 10
const MAX_HEARTBEAT_MS = 3_600_000

/** Where to begin when nothing has been seen yet. */
export type Start =
  | Exclude<From, { kind: 'position' }>
  | { readonly kind: 'position'; readonly position: StreamPosition; readonly checkpoints: readonly Position[] }

export type SessionOptions = {
  readonly client: string
  readonly start: Start
  readonly consumer: string | null
  readonly tables: readonly string[]
  readonly operations: readonly Operation[]
  /** Deliver heartbeats as events. */
  readonly progress: boolean
  /** Longest frame, bytes. */
  readonly maxFrameBytes: number
}

type Stage = 'opening' | 'between' | 'inside' | 'ended'
type ServerFrame = 'welcome' | 'schema' | 'begin' | 'change' | 'truncate' | 'message' | 'skip' | 'commit' | 'progress' | 'end'
type Handler = (session: ClientSession, body: Buffer) => void

/** The transaction that is open: seen by the subscriber up to and with change `seen`. */
type OpenTransaction = {
  readonly lsn: Lsn
  /** Unknown when all we have is a position that was saved. */
  readonly info: TransactionInfo | undefined
  /** Its commit time, microseconds since 1970, if that is known. */
  readonly micros: bigint | undefined
  readonly seen: number
}

const violation = (message: string): BeyondError => new BeyondError('PROTOCOL_VIOLATION', message)

export class ClientSession {
  readonly #options: SessionOptions
  readonly #checkpoints: Checkpoints
  /** The definition under which each table, by schema and name, was seen last. */
  readonly #tables = new Map<string, Table>()

  /** Last transaction that was seen whole; unknown until the first Welcome when we don't begin at a position. */
  #position: Position | undefined
  /** Set between `open` and the Begin of the transaction that the last stream left unfinished. */
  #cut: OpenTransaction | undefined
  #transaction: TransactionInfo | undefined
  /** Changes of the transaction up to and with this index were seen; those of this stream count in #index. */
  #seen = 0
  #index = 0

  #stage: Stage = 'ended'
  #handlers: readonly (Handler | undefined)[] = []
  #frames = new FrameReader(0)
  #relations = new Map<bigint, RelationReader>()
  #schemaLength = 0
  /** Most changes are of the same relation as the one before. */
  #lastLow = -1
  #lastHigh = -1
  #lastRelation: RelationReader | undefined
  /** The relation whose definition the subscriber knows to be the current one. */
  #noticed: RelationReader | undefined
  #out: ChangeEvent[] = []
  #welcome: Welcome | undefined
  #end: End | undefined

  constructor(options: SessionOptions) {
    this.#options = options
    const { start } = options
    if (start.kind === 'position') {
      this.#position = start.position.after
      const { partial } = start.position
      if (partial) this.#cut = { lsn: partial.lsn, info: undefined, micros: partial.micros, seen: partial.index }
    }
    this.#checkpoints = new Checkpoints(start.kind === 'position' ? start.checkpoints : [])
  }

  /** What the server said about itself on this stream. */
  get welcome(): Welcome | undefined {
    return this.#welcome
  }

  /** The server's last word on this stream. */
  get ended(): End | undefined {
    return this.#end
  }

  /** Where the subscriber stands: what `push` has given out is behind it. Undefined until it is known. */
  get position(): StreamPosition | undefined {
    if (!this.#position) return undefined
    const open = this.#openTransaction()
    if (!open || open.seen === 0) return { after: this.#position }
    return { after: this.#position, partial: { lsn: open.lsn, index: open.seen, ...(open.micros === undefined ? {} : { micros: open.micros }) } }
  }

  /** Older positions, newest first. */
  get checkpoints(): readonly Position[] {
    return this.#position ? this.#checkpoints.list(this.#position) : []
  }

  /** Starts on a new stream: the bytes to send first. */
  open(): Buffer {
    this.#cut = this.#openTransaction()
    this.#transaction = undefined
    this.#index = 0
    this.#frames = new FrameReader(this.#options.maxFrameBytes)
    this.#relations = new Map()
    this.#schemaLength = 0
    this.#lastRelation = this.#noticed = undefined
    this.#welcome = undefined
    this.#end = undefined
    this.#become('opening')
    const { client, consumer, tables, operations } = this.#options
    return encodeFrame(
      frameType.subscribe,
      envelopes.subscribe.encode({ version: PROTOCOL_VERSION, client, from: this.#from(), consumer, tables, operations }),
    )
  }

  /**
   * Takes what has arrived and appends the events to `out`. On an error the events before it are in `out` too,
   * and the stream is of no more use; `open` makes another attempt where that makes sense.
   */
  push(chunk: Uint8Array, out: ChangeEvent[]): void {
    this.#out = out
    try {
      this.#frames.push(chunk, this.#onFrame)
    } catch (error) {
      this.#become('ended')
      throw error
    }
  }

  readonly #onFrame = (frame: { readonly type: number; readonly body: Buffer }): void => {
    const handler = this.#handlers[frame.type]
    if (handler) handler(this, frame.body)
    // Types that this client does not know may be skipped, as long as there are frames to come.
    else if (knownTypes.has(frame.type) || this.#stage === 'ended')
      throw violation(`The server sent a frame of type ${frame.type} where the stream is ${this.#stage}.`)
  }

  #become(stage: Stage): void {
    this.#stage = stage
    this.#handlers = handlersByType[stage]
  }

  #openTransaction(): OpenTransaction | undefined {
    if (this.#transaction) return { lsn: this.#transaction.lsn, info: this.#transaction, micros: this.#transaction.micros, seen: this.#seen }
    return this.#cut
  }

  #from(): From {
    if (!this.#position) return this.#options.start as Exclude<Start, { kind: 'position' }>
    const from = { kind: 'position', after: this.#position, checkpoints: this.checkpoints } as const
    return this.#cut && this.#cut.seen > 0 ? { ...from, partial: { lsn: this.#cut.lsn, index: BigInt(this.#cut.seen) } } : from
  }

  static onWelcome(session: ClientSession, body: Buffer): void {
    const welcome = envelopes.welcome.decode(body)
    if (welcome.version !== PROTOCOL_VERSION)
      throw new BeyondError(
        'UNSUPPORTED_VERSION',
        `The server speaks protocol version ${welcome.version}, this client version ${PROTOCOL_VERSION}.`,
      )
    if (welcome.heartbeatMs < MIN_HEARTBEAT_MS || welcome.heartbeatMs > MAX_HEARTBEAT_MS)
      throw violation(`The server announces a heartbeat of ${welcome.heartbeatMs} ms.`)
    if (session.#position && !samePosition(session.#position, welcome.start))
      throw violation(
        `The server starts after ${formatTransactionPosition(welcome.start)}, asked for was ${formatTransactionPosition(session.#position)}.`,
      )
    session.#position ??= welcome.start
    session.#welcome = welcome
    session.#become('between')
  }

  static onSchema(session: ClientSession, body: Buffer): void {
    const { fingerprint, schema } = envelopes.schema.decode(body)
    const key = (fingerprint as Buffer).readBigUInt64LE()
    session.#schemaLength += schema.length
    if (session.#relations.has(key)) throw violation(`The server sent schema ${fingerprintText(key)} twice.`)
    if (session.#relations.size >= MAX_RELATIONS || session.#schemaLength > MAX_SCHEMA_LENGTH)
      throw violation(`The server announces more than ${MAX_RELATIONS} relations, or ${MAX_SCHEMA_LENGTH} characters of schemas.`)
    session.#relations.set(key, compileRelation(fingerprintText(key), schema))
  }

  static onBegin(session: ClientSession, body: Buffer): void {
    const begin = envelopes.begin.decode(body)
    const position = session.#position as Position
    const cut = session.#cut
    const isThere = cut !== undefined && begin.lsn === cut.lsn
    const isSame = isThere && (cut.micros === undefined || begin.time === cut.micros) && (!cut.info || sameTransaction(begin, cut.info))
    if (cut && !isSame && (isThere || session.#mustComeAgain(cut))) throw session.#broken(cut)
    if (begin.lsn < position.lsn)
      throw violation(`The server sent the transaction at ${formatLsn(begin.lsn)} after ${formatLsn(position.lsn)}.`)
    if (begin.xid < 0n || begin.xid > BigInt(Number.MAX_SAFE_INTEGER)) throw violation(`The server sent the transaction id ${begin.xid}.`)
    session.#cut = undefined
    session.#index = 0
    session.#become('inside')
    if (isSame) {
      session.#seen = cut.seen
      session.#transaction = cut.info ?? new TransactionInfo(begin.lsn, Number(begin.xid), begin.time, position)
      return
    }
    session.#seen = 0
    session.#transaction = new TransactionInfo(begin.lsn, Number(begin.xid), begin.time, position)
    session.#out.push(new Begin(session.#transaction))
  }

  static onChange(session: ClientSession, body: Buffer): void {
    if (++session.#index <= session.#seen) return
    const relation = session.#relationOf(body)
    const { op, before, after } = relation.read(body)
    const transaction = session.#transaction as TransactionInfo
    if (relation !== session.#noticed) session.#noticeTable(relation)
    session.#seen = session.#index
    session.#out.push(new RowChange(op, transaction, session.#index, relation.table, before, after) as ChangeEvent)
  }

  static onTruncate(session: ClientSession, body: Buffer): void {
    if (++session.#index <= session.#seen) return
    const { relations, cascade, restartIdentity } = envelopes.truncate.decode(body)
    const tables = relations.map(({ schema, table }) => ({ schema, name: table }))
    session.#seen = session.#index
    session.#out.push(new Truncate(session.#transaction as TransactionInfo, session.#index, tables, cascade, restartIdentity))
  }

  static onMessage(session: ClientSession, body: Buffer): void {
    if (++session.#index <= session.#seen) return
    const { lsn, transactional, prefix, content } = envelopes.message.decode(body)
    session.#seen = session.#index
    session.#out.push(new Message(session.#transaction as TransactionInfo, session.#index, lsn, transactional, prefix, content))
  }

  static onSkip(session: ClientSession, body: Buffer): void {
    const { changes } = envelopes.skip.decode(body)
    const index = BigInt(session.#index) + changes
    if (changes < 1n || index > BigInt(Number.MAX_SAFE_INTEGER)) throw violation(`The server skips ${changes} changes.`)
    session.#index = Number(index)
    session.#seen = Math.max(session.#seen, session.#index)
  }

  static onCommit(session: ClientSession, body: Buffer): void {
    const { lsn, endLsn, changes, chain } = envelopes.commit.decode(body)
    const transaction = session.#transaction as TransactionInfo
    if (lsn !== transaction.lsn || endLsn < lsn)
      throw violation(`The server ends the transaction at ${formatLsn(transaction.lsn)} as that at ${formatLsn(lsn)}.`)
    if (changes !== BigInt(session.#index))
      throw violation(`The server sent ${session.#index} of the ${changes} changes of the transaction at ${formatLsn(lsn)}.`)
    if (session.#index < session.#seen) throw session.#broken({ lsn, info: transaction, micros: transaction.micros, seen: session.#seen })
    const position = { lsn, chain }
    session.#checkpoints.add(position)
    session.#position = position
    session.#transaction = undefined
    session.#become('between')
    session.#out.push(new Commit(transaction, endLsn, session.#index, position))
  }

  static onProgress(session: ClientSession, body: Buffer): void {
    const { position, walLsn, time } = envelopes.progress.decode(body)
    const before = session.#position as Position
    if (position.lsn < before.lsn)
      throw violation(`The server's position went back from ${formatLsn(before.lsn)} to ${formatLsn(position.lsn)}.`)
    const cut = session.#cut
    if (cut && position.lsn >= cut.lsn) {
      if (session.#mustComeAgain(cut)) throw session.#broken(cut)
      session.#cut = undefined
    }
    if (position.lsn > before.lsn) session.#checkpoints.add(position)
    session.#position = position
    if (session.#options.progress) session.#out.push(new Progress(position, walLsn, time))
  }

  /** In the midst of a transaction a heartbeat says only that the server is alive. */
  static onProgressInside(session: ClientSession, body: Buffer): void {
    const { position } = envelopes.progress.decode(body)
    const { lsn } = session.#position as Position
    if (position.lsn !== lsn) throw violation(`The server's position moved to ${formatLsn(position.lsn)} within a transaction.`)
  }

  static onEnd(session: ClientSession, body: Buffer): void {
    session.#end = envelopes.end.decode(body)
    session.#become('ended')
  }

  /** A filter may be another one than when the position was saved, and leave the whole transaction out. */
  #mustComeAgain(cut: OpenTransaction): boolean {
    return cut.info !== undefined || (this.#options.tables.length === 0 && this.#options.operations.length === 0)
  }

  #broken(cut: OpenTransaction): BeyondError {
    const shared = formatTransactionPosition(this.#position as Position)
    return new BeyondError(
      'HISTORY_BROKEN',
      `A part of the transaction at ${formatLsn(cut.lsn)} was delivered, and the server's history has another one; both share ${shared}.`,
      { facts: { shared, lsn: formatLsn(cut.lsn) } },
    )
  }

  #relationOf(body: Buffer): RelationReader {
    if (body.length < SINGLE_OBJECT_HEADER_BYTES || body.readUInt16BE(0) !== SINGLE_OBJECT_MARKER)
      throw violation('The server sent a change that is not in Avro single-object encoding.')
    const low = body.readUInt32LE(2)
    const high = body.readUInt32LE(6)
    if (this.#lastRelation && low === this.#lastLow && high === this.#lastHigh) return this.#lastRelation
    const key = (BigInt(high) << 32n) | BigInt(low)
    const relation = this.#relations.get(key)
    if (!relation) throw violation(`The server sent a change of schema ${fingerprintText(key)}, which it has not announced.`)
    this.#lastLow = low
    this.#lastHigh = high
    this.#lastRelation = relation
    return relation
  }

  /** Two versions may take turns (tables that swap names): what counts is the change, not the announcement. */
  #noticeTable(relation: RelationReader): void {
    this.#noticed = relation
    const { table } = relation
    const name = JSON.stringify([table.schema, table.name])
    const previous = this.#tables.get(name)
    if (previous?.fingerprint === table.fingerprint) return
    if (this.#tables.size >= MAX_RELATIONS) throw violation(`The server sent changes of more than ${MAX_RELATIONS} tables.`)
    this.#tables.set(name, table)
    this.#out.push(new SchemaChange(this.#transaction as TransactionInfo, this.#seen, table, previous ?? null))
  }
}

const {
  onWelcome,
  onSchema,
  onBegin,
  onChange,
  onTruncate,
  onMessage,
  onSkip,
  onCommit,
  onProgress,
  onProgressInside,
  onEnd,
} = ClientSession
const no = undefined

/** What each frame means in each state; `no` is a violation of the protocol. */
const transitions: Record<Stage, Record<ServerFrame, Handler | undefined>> = {
  opening: {
    welcome: onWelcome,
    schema: no,
    begin: no,
    change: no,
    truncate: no,
    message: no,
    skip: no,
    commit: no,
    progress: no,
    end: onEnd,
  },
  between: {
    welcome: no,
    schema: onSchema,
    begin: onBegin,
    change: no,
    truncate: no,
    message: no,
    skip: no,
    commit: no,
    progress: onProgress,
    end: onEnd,
  },
  inside: {
    welcome: no,
    schema: onSchema,
    begin: no,
    change: onChange,
    truncate: onTruncate,
    message: onMessage,
    skip: onSkip,
    commit: onCommit,
    progress: onProgressInside,
    end: onEnd,
  },
  ended: { welcome: no, schema: no, begin: no, change: no, truncate: no, message: no, skip: no, commit: no, progress: no, end: no },
}

const byType = (row: Record<ServerFrame, Handler | undefined>): readonly (Handler | undefined)[] => {
  const handlers: (Handler | undefined)[] = Array.from({ length: Math.max(...Object.values(frameType)) + 1 }, () => undefined)
  for (const [name, handler] of Object.entries(row)) handlers[frameType[name as ServerFrame] satisfies FrameType] = handler
  return handlers
}
const handlersByType: Record<Stage, readonly (Handler | undefined)[]> = {
  opening: byType(transitions.opening),
  between: byType(transitions.between),
  inside: byType(transitions.inside),
  ended: byType(transitions.ended),
}

const knownTypes: ReadonlySet<number> = new Set(Object.values(frameType))

const sameTransaction = (begin: { readonly xid: bigint; readonly time: bigint }, info: TransactionInfo): boolean =>
  begin.xid === BigInt(info.xid) && begin.time === info.micros
const samePosition = (a: Position, b: Position): boolean => a.lsn === b.lsn && Buffer.compare(a.chain, b.chain) === 0
const fingerprintText = (fingerprint: bigint): string => fingerprint.toString(16).padStart(16, '0')

/** The server's End as an error: what it says, and where both histories still agree. */
export function errorFromEnd(end: End): BeyondError {
  const known = Object.hasOwn(codes, end.code)
  const code: ErrorCode = known ? (end.code as ErrorCode) : end.retryAfterMs === null ? 'BAD_REQUEST' : 'TOO_MANY'
  const facts = {
    ...(known ? {} : { remoteCode: end.code }),
    ...(end.shared ? { shared: formatTransactionPosition(end.shared) } : {}),
    ...(end.retryAfterMs === null ? {} : { retryAfterMs: end.retryAfterMs }),
  }
  return new BeyondError(code, end.message, { facts })
}

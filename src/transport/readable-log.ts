/**
 * What subscriber sessions need of a change log. `src/log` implements it; transport does not know how.
 */
import { BeyondError } from '../errors.ts'
import { formatLsn, type Lsn } from '../wal/lsn.ts'
import type { From, Position } from './envelopes.ts'

export type LogPiece = {
  /** Protocol frames; may be cut anywhere when a transaction is long. */
  readonly bytes: Buffer
  /** Relation versions that the frames use: a superset. */
  readonly fingerprints: readonly bigint[]
  /** The last transaction that is whole with this piece. */
  readonly position: Position | undefined
}

export interface LogReader extends AsyncDisposable {
  /** Offset in the log of what comes next. */
  readonly offset: number
  /** The next piece when it is in memory. */
  take(): LogPiece | undefined
  /** The next piece; undefined when all that is durable has been read. */
  read(): Promise<LogPiece | undefined>
}

export interface ReadableLog {
  readonly history: Uint8Array
  readonly systemId: string
  readonly database: string
  readonly head: Position
  /** Offset of the end of what is durable. */
  readonly end: number
  /** Postgres has been read, durably, up to here. */
  readonly reached: Lsn
  /** The Avro schema of a relation version, as JSON text. */
  schema(fingerprint: bigint): string
  /**
   * Opens a reader where `from` says. Throws HistoryBroken, POSITION_TOO_OLD or
   * BAD_REQUEST. Waits, within limits, while the log has yet to catch up with the position.
   */
  open(from: From, consumer: string | null, signal: AbortSignal): Promise<{ readonly reader: LogReader; readonly start: Position }>
  /** Moves the cursor of a durable consumer. */
  acknowledge(consumer: string, position: Position): void
  onAdvance(listener: () => void): () => void
}

/** HISTORY_BROKEN, with the newest of the subscriber's positions that this log holds too. */
export class HistoryBroken extends BeyondError {
  readonly shared: Position | undefined

  constructor(message: string, shared: Position | undefined) {
    super('HISTORY_BROKEN', message, { facts: shared ? { shared: formatLsn(shared.lsn) } : {} })
    this.name = 'HistoryBroken'
    this.shared = shared
  }
}

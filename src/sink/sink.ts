/**
 * What a sink is to those who talk to it: types only. `wal-sink.ts` is the one that keeps WAL; the HTTPS server serves
 * whatever satisfies this.
 *
 * Failures are BeyondErrors: NOT_FOUND (a name that is well formed and not held), BAD_REQUEST (a name or value that is
 * not), STALE_GENERATION, GENERATION_TAKEN, NOT_SEALED, WRONG_SYSTEM, HISTORY_DIVERGED, WAL_CORRUPT, DATA_LOST, LOCKED,
 * DISK_FULL, SHUTDOWN.
 */
import type { ErrorCode } from '../errors.ts'
import type { Lsn } from '../wal/lsn.ts'
import type { Timeline } from '../wal/timeline.ts'

/** What the sink does at the moment. */
export type SinkActivity =
  /** Nobody has attached it yet. */
  | 'idle'
  /** Looking at the primary, or waiting before the next attempt. */
  | 'connecting'
  | 'streaming'
  /** It takes nothing from any primary until it is attached with the generation that sealed it. */
  | 'sealed'
  /** The volume is nearly full: the receiver rests, so that no commit waits for a disk that can't take it. */
  | 'disk-full'
  /** Something is wrong that only a person can put right: see `problem`. */
  | 'halted'

export type SealStatus = {
  readonly generation: bigint
  /** Identity of the box that claimed the generation. */
  readonly by: string
  /** ISO 8601 */
  readonly at: string
  /** Where valid WAL ends here; undefined while it is being computed. */
  readonly position: WalPosition | undefined
}

/** A point in WAL, on the timeline that wrote it. */
export type WalPosition = {
  readonly timeline: Timeline
  /** After the last whole and right record: where the next one would begin. */
  readonly lsn: Lsn
  /** Start of that last record (what `recovery_target_lsn` compares); undefined when there is none. */
  readonly lastRecord: Lsn | undefined
}

export type SinkStatus = {
  readonly sinkId: string
  /** Also its `application_name` at the primary, and the name of its slot. */
  readonly name: string
  readonly version: string
  readonly activity: SinkActivity
  readonly problem: { readonly code: ErrorCode; readonly message: string } | undefined
  /** undefined before the first attach. */
  readonly systemId: bigint | undefined
  /** Of the primary that it takes WAL from, or took it from last; 0 before the first. */
  readonly generation: bigint
  /** Set while sealed; it stays when the generation that sealed it attaches. */
  readonly seal: SealStatus | undefined
  readonly segmentBytes: number | undefined
  /** Verified and fsynced here. */
  readonly flushed: WalPosition | undefined
  /** Start of the WAL that is held without a gap up to `flushed`. */
  readonly coverageStart: Lsn | undefined
  /** Retention removes nothing at or after it: the lowest pin. undefined: no pin, so that nothing is removed. */
  readonly floor: Lsn | undefined
  readonly segments: number
  /** Bytes on disk of all that is kept. */
  readonly storedBytes: number
  readonly freeBytes: number
  /** Exits of the receiver since the sink started, without those that were asked for. */
  readonly receiverRestarts: number
  readonly quarantined: number
}

export type SegmentKind =
  /** Whole, as the primary closed it. */
  | 'closed'
  /** Still written: what is served of it ends with the last whole record, and zeros follow. */
  | 'partial'
  /** The last one at a seal: whole length, zeros after the last record. */
  | 'sealed'

export type SegmentInfo = {
  /** 24 hexadecimal digits, also of a partial one. */
  readonly name: string
  readonly kind: SegmentKind
  readonly timeline: Timeline
  readonly start: Lsn
  /** End of the WAL in it: the segment's own end when it is closed. */
  readonly end: Lsn
  /** As served, uncompressed: always the segment size. */
  readonly bytes: number
  readonly storedBytes: number
  /** Hexadecimal, of the bytes as served; undefined for one that is still written, or not yet put away. */
  readonly sha256: string | undefined
}

export type ObjectInfo = { readonly bytes: number; readonly sha256: string | undefined }

/** An object for reading. What is read does not change while it is open. */
export interface OpenObject extends AsyncDisposable {
  /** Of the bytes that `read` gives, uncompressed. */
  readonly bytes: number
  /** Strong: the same name and etag are the same bytes. Without quotes. */
  readonly etag: string
  readonly sha256: string | undefined
  /** A partial one: must not be cached, and may be longer at the next look. */
  readonly kind: SegmentKind | 'history'
  /** Bytes [start, end) in pieces of bounded size. */
  read(start: number, end: number): AsyncIterable<Buffer>
  /** The whole object as zstd, where it is kept so. */
  readonly zstd: { readonly bytes: number; read(): AsyncIterable<Buffer> } | undefined
}

export type HistoryInfo = { readonly name: string; readonly timeline: Timeline; readonly bytes: number; readonly sha256: string }

export type Pin = {
  /** [a-z0-9._-], at most 63. */
  readonly name: string
  /** WAL from here on is kept. */
  readonly lsn: Lsn
  /** ISO 8601; undefined: until it is removed. */
  readonly expiresAt: string | undefined
}

/** How to reach a primary: keywords of libpq. */
export type PrimaryConninfo = Readonly<
  Partial<Record<'host' | 'hostaddr' | 'port' | 'user' | 'password' | 'sslmode' | 'sslrootcert' | 'sslcert' | 'sslkey', string>>
>

export type SealRequest = { readonly generation: bigint; readonly by: string }
export type AttachRequest = SealRequest & { readonly conninfo: PrimaryConninfo }

/** `ok` false: what is wrong with which object. */
export type VerifyReport = {
  readonly segments: number
  readonly bytes: number
  readonly faults: readonly { readonly name: string; readonly message: string }[]
  /** Missing between segments that are held: inclusive first, exclusive last. */
  readonly gaps: readonly { readonly start: Lsn; readonly end: Lsn }[]
}

export type SinkProgress = Pick<SinkStatus, 'activity' | 'problem' | 'generation' | 'flushed' | 'floor'>

export interface Sink {
  status(): SinkStatus
  /** By timeline and start. */
  segments(): Promise<readonly SegmentInfo[]>
  histories(): Promise<readonly HistoryInfo[]>
  /** By its 24 digits; the partial one too. Throws NOT_FOUND. */
  openSegment(name: string): Promise<OpenObject>
  /** `0000000A.history`. Throws NOT_FOUND. */
  openHistory(name: string): Promise<OpenObject>
  /**
   * Keeps a history file. The same bytes again are fine; others under a name that is taken throw HISTORY_DIVERGED, so
   * that of two boxes that choose the same timeline only one can have it.
   */
  putHistory(name: string, content: Buffer): Promise<void>
  /**
   * Refuses every primary below `generation` from now on, durably, and answers where WAL ends here. Again by the same
   * box: the same answer. STALE_GENERATION: a later one sealed or attached it. GENERATION_TAKEN: another box did.
   */
  seal(request: SealRequest): Promise<{ readonly seal: SealStatus; readonly position: WalPosition | undefined }>
  /** Points it at the primary of a generation: the one that sealed it, or the first one of all. Answers when it is durable. */
  attach(request: AttachRequest): Promise<void>
  pins(): readonly Pin[]
  setPin(pin: Pin): Promise<void>
  /** Throws NOT_FOUND. */
  removePin(name: string): Promise<void>
  /** Reads everything that is kept and compares checksums, pages and records. Aborted by the signal. */
  verify(signal: AbortSignal): Promise<VerifyReport>
  /** Calls `listener` when something of it changes, at most some ten times a second. Answers how to stop that. */
  onProgress(listener: (progress: SinkProgress) => void): () => void
}

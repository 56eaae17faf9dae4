/**
 * The change path, in the order in which data flows:
 *
 *     slot ──► decode, Avro, chain ──► compare replays ──► change log, fsync ──► confirm to the slot
 *                                                             └──► subscribers, each with a cursor of its own
 *
 * Backpressure is counted in bytes at the two edges: the source reads on only while what the log has yet to make durable
 * fits its window; and each subscriber has its own cursor, which holds nothing back.
 */
import { concatMap, defer, filter, from, map, mergeMap, Observable, retry, tap, throwError, timer } from 'rxjs'
import { backoffMs } from './backoff.ts'
import { ChangeEncoder } from './decode/change-encoder.ts'
import { BeyondError, codeOf, codes } from './errors.ts'
import type { ChangeLog } from './log/change-log.ts'
import { beforeHead } from './log/log-search.ts'
import { ReplayCheck } from './log/replay-check.ts'
import { resumePoint } from './log/resume-point.ts'
import type { Logger } from './logger.ts'
import { formatLsn, LSN_ZERO, maxLsn, toLsn, type Lsn } from './wal/lsn.ts'
import { withPostgres, type PostgresAddress } from './wal/postgres.ts'
import { replicationSource, type SourceBatch, type SourceControl } from './wal/replication-source.ts'
import { serverState } from './wal/slot.ts'

export type ChangePipelineOptions = {
  readonly postgres: PostgresAddress
  readonly log: ChangeLog
  readonly logger: Logger
  /** Bytes that may wait for the log's fsync before reading from Postgres pauses. */
  readonly windowBytes: number
  /** On an idle database the slot is moved at most this often. Milliseconds. */
  readonly idleMarkMs: number
  readonly onState: (state: 'streaming' | 'reconnecting', error?: BeyondError) => void
}

const RETRY = { minMs: 50, maxMs: 5_000 }

/** Where the change path stands; for status. */
export class PipelineProgress {
  received: Lsn = LSN_ZERO
  confirmed: Lsn = LSN_ZERO
}

/** Runs until it is unsubscribed; errors with what no retry mends. Emits each LSN that was confirmed. */
export function changePipeline(options: ChangePipelineOptions, progress: PipelineProgress): Observable<Lsn> {
  const { logger, onState } = options
  return defer(() => from(prepare(options))).pipe(
    concatMap((attempt) => stream(options, attempt, progress)),
    retry({
      resetOnSuccess: true,
      delay: (error: unknown, attempt) => {
        if (!codes[codeOf(error)].retry) return throwError(() => error)
        const known = error as BeyondError
        const ms = backoffMs(attempt, Math.random(), RETRY)
        onState('reconnecting', known)
        logger.warn({ code: known.code, attempt, retryInMs: Math.round(ms) }, known.message)
        return timer(ms)
      },
    }),
  )
}

type Attempt = { readonly start: Lsn; readonly confirmed: Lsn; readonly encoder: ChangeEncoder; readonly check: ReplayCheck }

/** Looks at slot, log and database before reading, and forgets what the last attempt left half done. */
async function prepare({ postgres, log, logger }: ChangePipelineOptions): Promise<Attempt> {
  await log.rollback()
  const { manifest, head, reached } = log
  const server = await withPostgres(postgres, 'looking at the slot', (client) => serverState(client, manifest.slot, manifest.publication))
  const { confirmed, replaysHead } = resumePoint(server, { manifest, head: head.lsn, reached })
  const before = replaysHead ? await beforeHead(log) : undefined
  // Right behind the transaction before the newest one: where the record of the newest begins is known of a commit only,
  // not of a message. What comes before the newest may be gone: then there is nothing to compare with.
  const start = before ? toLsn(before.lsn + 1n) : replaysHead ? head.endLsn : confirmed
  logger.info({ slot: manifest.slot, start: formatLsn(start), reached: formatLsn(reached) }, 'reading changes')
  return { start, confirmed, encoder: new ChangeEncoder((before ?? head).chain), check: new ReplayCheck({ head, reached }, before !== undefined) }
}

function stream(options: ChangePipelineOptions, attempt: Attempt, progress: PipelineProgress): Observable<Lsn> {
  const { log, windowBytes, idleMarkMs, postgres, onState } = options
  const { encoder, check, start, confirmed } = attempt
  const { slot, publication } = log.manifest
  let source: SourceControl
  let markedAt = performance.now()
  let marking = LSN_ZERO
  /** What the log reaches holds for the WAL that it was read from: this stream has to have come as far, too. */
  let seen = LSN_ZERO

  const encode = (batch: SourceBatch) => {
    for (const message of batch.messages) encoder.push(message)
    const encoded = encoder.take()
    // New schemas stay with the encoder until there are bytes that need them.
    return { encoded, schemas: encoded ? encoder.takeSchemas() : [], idleAt: batch.idleAt, asked: batch.asked }
  }

  const store = async ({ encoded, schemas, idleAt, asked }: ReturnType<typeof encode>): Promise<void> => {
    const appends = encoded ? check.admit(encoded, schemas) : []
    const durable = appends.map((append) => log.append(append))
    if (log.pendingBytes > windowBytes) source.pause()
    await Promise.all(durable)
    if (log.pendingBytes <= windowBytes) source.resume()
    seen = maxLsn(seen, encoded?.transactions.at(-1)?.endLsn ?? LSN_ZERO)
    if (idleAt !== undefined) await moveIdleSlot(idleAt, asked)
  }

  /** Nothing is outstanding and Postgres has read on: remember that durably, then the slot may follow. At once when it is asked for. */
  const moveIdleSlot = async (idleAt: Lsn, asked: boolean): Promise<void> => {
    progress.received = maxLsn(progress.received, idleAt)
    if (encoder.insideTransaction) return
    check.idle(idleAt)
    seen = maxLsn(seen, idleAt)
    const now = performance.now()
    if (idleAt <= log.reached || idleAt <= marking || (!asked && now - markedAt < idleMarkMs)) return
    markedAt = now
    marking = idleAt
    await log.mark(idleAt)
  }

  // A crash of Postgres may have put the slot back to its last checkpoint.
  progress.confirmed = confirmed
  const opened = replicationSource({ postgres, slot, publication, start, confirmed }, (control) => {
    source = control
    onState('streaming')
  })
  return opened.pipe(
    mergeMap((batch) => store(encode(batch))),
    map(() => (seen < log.reached ? seen : log.reached)),
    filter((lsn) => lsn > progress.confirmed),
    tap((lsn) => {
      progress.confirmed = lsn
      progress.received = maxLsn(progress.received, lsn)
      source.confirm(lsn)
    }),
  )
}

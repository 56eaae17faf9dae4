/**
 * The CDC service of one database: opens what its configuration names (log, listener), runs the change pipeline and
 * answers subscribers, until it is told to stop. Owns all of it, and closes it in the reverse order.
 */
import { mkdir, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fromEvent, takeUntil } from 'rxjs'
import { backoffMs } from './backoff.ts'
import { lockFile } from './directory-lock.ts'
import { BeyondError, codeOf, codes, fromSystem } from './errors.ts'
import { ChangeLog } from './log/change-log.ts'
import { ConsumerStore } from './log/consumers.ts'
import { lagAfter, lagAt } from './log/log-lag.ts'
import { LogView } from './log/log-view.ts'
import { historyBytes, newManifest, readManifest, writeManifest, type Manifest } from './log/manifest.ts'
import type { RetentionPolicy } from './log/retention.ts'
import type { Logger } from './logger.ts'
import { changePipeline, PipelineProgress } from './pipeline.ts'
import type { Status, SubscriberStatus } from './transport/envelopes.ts'
import { ALPN } from './transport/frame.ts'
import type { Quic, QuicAddress, QuicLimits, QuicListener } from './transport/quic.ts'
import { SubscriptionServer } from './transport/subscription-server.ts'
import { formatLsn, lsnFromServer, LSN_ZERO, type Lsn } from './wal/lsn.ts'
import { withPostgres, type PostgresAddress } from './wal/postgres.ts'
import { createPublication, createSlot, dropSlot, serverState } from './wal/slot.ts'

export type CdcServiceOptions = {
  readonly postgres: PostgresAddress
  readonly slot: string
  readonly publication: string
  /** `schema.table` each, for a publication that does not exist yet; none: all tables. */
  readonly tables: readonly string[]
  /** The service's own folder: the lock, and the log in `log`. */
  readonly directory: string
  readonly newHistory: boolean
  readonly listen: QuicAddress
  /** Holds server.crt, server.key and ca.crt. */
  readonly tlsDirectory: string
  readonly limits: QuicLimits
  readonly maxSubscriptions: number
  readonly heartbeatMs: number
  readonly windowBytes: number
  readonly tailBytes: number
  readonly segmentBytes: number
  readonly idleMarkMs: number
  readonly retention: RetentionPolicy
  readonly version: string
}

const RETRY = { minMs: 50, maxMs: 2_000 }
const RETAIN_INTERVAL_MS = 10_000
const CURSOR_FLUSH_MS = 200
/** Short: a client can't tell a server that waits from one that is gone. It asks again. */
const CATCH_UP_MS = 4_000
const REQUEST_TIMEOUT_MS = 10_000
const DRAIN_MS = 3_000

/** Runs until `signal` aborts; then it has told the subscribers and closed everything. Throws what no retry mends. */
export async function runCdcService(
  options: CdcServiceOptions,
  quic: Quic,
  logger: Logger,
  signal: AbortSignal,
  onListening: (address: QuicAddress) => void,
): Promise<void> {
  const { postgres, limits } = options
  const directory = logDirectory(options)
  await using owned = new AsyncDisposableStack()
  const credentials = await readCredentials(options.tlsDirectory)
  // First of all, so that a port in use is said before anything is made in the database.
  const listener = owned.adopt(await quic.listen({ address: options.listen, alpn: ALPN, credentials, limits }), (open: QuicListener) => open.close())
  await mkdir(options.directory, { recursive: true, mode: 0o700 })
  owned.use(lockFile(join(options.directory, 'lock'), `Another CDC service runs on ${options.directory}: stop it first, or choose another folder with --data.`))
  if (options.newHistory) await persistently(() => putAside(options, logger), logger, signal)
  const manifest = await persistently(() => findOrBegin(options, logger), logger, signal)
  if (!manifest) return
  const log = owned.use(
    await ChangeLog.open({ directory, manifest, logger, segmentBytes: options.segmentBytes, tailBytes: options.tailBytes }),
  )
  const consumers = await ConsumerStore.open(directory)
  owned.defer(() => consumers.flush())

  const progress = new PipelineProgress()
  let state = 'starting'
  let failure: BeyondError | undefined
  let walEnd: Lsn = LSN_ZERO
  const askWalEnd = async (): Promise<Lsn | undefined> => {
    try {
      const { rows } = await withPostgres(postgres, 'asking for the end of WAL', (client) => client.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn'))
      return (walEnd = lsnFromServer(rows[0].lsn))
    } catch {
      return undefined
    }
  }
  const view = new LogView({ log, consumers, walEnd: askWalEnd, catchUpMs: CATCH_UP_MS })
  const startedAt = BigInt(Date.now()) * 1000n
  const server = `beyond-pg-cdc/${options.version}`

  const status = async (): Promise<Status> => {
    await askWalEnd()
    const connected = subscriptions.subscribers((offset) => lagAt(log, offset, Date.now()))
    return {
      server,
      startedAt,
      state,
      error: failure ? `${failure.code}: ${failure.message}` : null,
      history: historyBytes(manifest),
      systemId: manifest.systemId,
      database: manifest.database,
      slot: {
        name: manifest.slot,
        publication: manifest.publication,
        confirmedLsn: progress.confirmed,
        receivedLsn: progress.received,
        walLsn: walEnd,
        lagBytes: walEnd > progress.confirmed ? walEnd - progress.confirmed : 0n,
      },
      log: {
        oldest: log.oldest,
        head: { lsn: log.head.lsn, chain: log.head.chain },
        headTime: log.head.time > 0n ? log.head.time : null,
        bytes: BigInt(log.bytes),
        segments: log.segments.length,
        transactions: log.transactions,
        changes: log.changes,
      },
      subscribers: [...connected, ...(await absent(connected, consumers, log))],
    }
  }
  const subscriptions = owned.use(
    new SubscriptionServer(listener, {
      log: view,
      logger,
      server,
      heartbeatMs: options.heartbeatMs,
      now: () => performance.now(),
      maxSubscriptions: options.maxSubscriptions,
      requestTimeoutMs: REQUEST_TIMEOUT_MS,
      drainMs: DRAIN_MS,
      status,
    }),
  )
  const retain = setInterval(() => {
    const held = consumers.list().map(({ position }) => position.lsn)
    log.retain(options.retention, held, BigInt(Date.now()) * 1000n).catch((error: unknown) => logger.error({ err: error }, 'could not remove old segments'))
  }, RETAIN_INTERVAL_MS)
  owned.defer(() => clearInterval(retain))
  const flushCursors = setInterval(() => {
    consumers.flush().catch((error: unknown) => logger.error({ err: fromSystem(error, 'saving cursors of consumers') }, 'could not save cursors'))
  }, CURSOR_FLUSH_MS)
  owned.defer(() => clearInterval(flushCursors))

  onListening(listener.address)
  await new Promise<void>((resolve, reject) => {
    const onState = (next: string, error?: BeyondError) => {
      state = next
      failure = error
    }
    changePipeline({ postgres, log, logger, windowBytes: options.windowBytes, idleMarkMs: options.idleMarkMs, onState }, progress)
      .pipe(takeUntil(fromEvent(signal, 'abort')))
      .subscribe({ error: reject, complete: resolve })
  })
  state = 'stopping'
  logger.info({ head: formatLsn(log.head.lsn) }, 'stopping')
}

const logDirectory = ({ directory }: CdcServiceOptions): string => join(directory, 'log')

/** Durable consumers that are not connected now. */
async function absent(connected: readonly SubscriberStatus[], consumers: ConsumerStore, log: ChangeLog): Promise<SubscriberStatus[]> {
  const statuses: SubscriberStatus[] = []
  for (const { name, position } of consumers.list()) {
    if (connected.some(({ consumer }) => consumer === name)) continue
    const { bytes, ms } = await lagAfter(log, position, Date.now())
    statuses.push({
      id: 0n,
      peer: '',
      address: '',
      client: '',
      consumer: name,
      connected: false,
      sent: null,
      acknowledged: position,
      lagBytes: bytes,
      lagMs: ms,
      sentBytes: 0n,
    })
  }
  return statuses
}

/** Tries again what may succeed later. undefined: told to stop meanwhile. */
async function persistently<T>(work: () => Promise<T>, logger: Logger, signal: AbortSignal): Promise<T | undefined> {
  for (let attempt = 1; !signal.aborted; attempt++) {
    try {
      return await work()
    } catch (error) {
      if (!codes[codeOf(error)].retry) throw error
      logger.warn({ code: codeOf(error), attempt }, (error as Error).message)
      await sleep(backoffMs(attempt, Math.random(), RETRY), undefined, { signal }).catch(() => {})
    }
  }
  return undefined
}

/** The history of this folder; a new one, with slot and publication, when there is none. */
async function findOrBegin(options: CdcServiceOptions, logger: Logger): Promise<Manifest> {
  const { slot, publication, postgres } = options
  const directory = logDirectory(options)
  const found = await readManifest(directory)
  if (found) {
    if (found.slot !== slot || found.publication !== publication || found.database !== postgres.database)
      throw new BeyondError(
        'BAD_ARGUMENT',
        `${directory} is the change log of slot ${found.slot}, publication ${found.publication} and database ${found.database}: use these, or another --data.`,
      )
    return found
  }
  return begin(options, logger)
}

function begin(options: CdcServiceOptions, logger: Logger): Promise<Manifest> {
  const { slot, publication, tables, postgres } = options
  const directory = logDirectory(options)
  return withPostgres(postgres, 'preparing slot and publication', async (client) => {
    const server = await serverState(client, slot, publication)
    if (!server.publication) await createPublication(client, publication, tables)
    // A slot that is there without a log was made by a start that was cut short, or its log is gone: either way its
    // confirmed position is where the new history begins.
    if (server.slot?.active) throw new BeyondError('SLOT_ACTIVE', `Another connection reads the slot ${slot}.`)
    // One that Postgres has invalidated gives nothing any more.
    const usable = server.slot?.lost === undefined ? server.slot : undefined
    if (!usable) await dropSlot(client, slot)
    const genesis = usable?.confirmed ?? (await createSlot(client, slot))
    await mkdir(directory, { recursive: true, mode: 0o700 })
    const manifest = newManifest({ systemId: server.systemId, database: postgres.database, slot, publication, genesis }, new Date())
    await writeManifest(directory, manifest)
    logger.info({ history: manifest.history, genesis: formatLsn(genesis) }, 'a new history begins')
    return manifest
  })
}

/** Keeps the old log under another name and drops the slot, so that a new history begins. */
async function putAside(options: CdcServiceOptions, logger: Logger): Promise<void> {
  const { slot, postgres } = options
  const directory = logDirectory(options)
  await withPostgres(postgres, 'dropping the slot', (client) => dropSlot(client, slot))
  const aside = `${directory}.${new Date().toISOString().replaceAll(/[:.]/g, '-')}`
  try {
    await rename(directory, aside)
    logger.warn({ from: directory, to: aside }, 'put the old change log aside')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw fromSystem(error, 'putting the old change log aside')
  }
}

async function readCredentials(directory: string): Promise<{ cert: string; key: string; ca: string }> {
  const read = async (name: string): Promise<string> => {
    try {
      return await readFile(join(directory, name), 'utf8')
    } catch (error) {
      throw new BeyondError('BAD_CERTIFICATE', `Can't read ${join(directory, name)}: ${(error as Error).message}`, { cause: error })
    }
  }
  return { cert: await read('server.crt'), key: await read('server.key'), ca: await read('ca.crt') }
}

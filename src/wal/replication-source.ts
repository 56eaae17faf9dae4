/**
 * A logical replication slot as a cold Observable of what each read of the socket brought: subscribing connects and
 * starts to stream, unsubscribing ends the connection. Owns the connection, the standby status updates and the
 * watchdog; knows nothing of what the messages mean.
 * Source: https://www.postgresql.org/docs/18/protocol-replication.html
 *
 * pg-logical-replication has the session. Its own acknowledgement is off (`timeoutSeconds: 0`): with it on, it confirms
 * what was merely received. Backpressure is the socket's: pausing it lets the walsender block.
 */
import { LogicalReplicationService } from 'pg-logical-replication'
import type { Client } from 'pg'
import { Observable } from 'rxjs'
import { BeyondError } from '../errors.ts'
import { fromPostgres, type PostgresAddress } from './postgres.ts'
import { formatLsn, lsnFromServer, LSN_ZERO, maxLsn, type Lsn } from './lsn.ts'

export type SourceOptions = {
  readonly postgres: PostgresAddress
  readonly slot: string
  readonly publication: string
  /** Transactions whose commit record starts before this LSN are not sent. The slot's own confirmed position when later. */
  readonly start: Lsn
  /** What the slot was told last: told again until there is more to tell, since the walsender wants to hear of us. */
  readonly confirmed: Lsn
}

export type SourceBatch = {
  /** pgoutput messages, in order; valid until the batch has been handled. */
  readonly messages: readonly Buffer[]
  readonly bytes: number
  /** Postgres has sent everything up to here; set when the last thing in the batch is a keepalive. */
  readonly idleAt: Lsn | undefined
}

/** What flows back to the source. */
export interface SourceControl {
  /** Everything before `lsn` is durable: the slot may move. Sent soon, not at once. */
  confirm(lsn: Lsn): void
  /** Stops and goes on reading from the socket. */
  pause(): void
  resume(): void
}

/** Options of every session: text output does not depend on the settings of a role or database. */
const PINNED = '-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=1 -c bytea_output=hex -c lc_monetary=C -c wal_sender_timeout=60s'

const CONFIRM_INTERVAL_MS = 50
/** A status update at least this often keeps the walsender content (wal_sender_timeout, 60 s) and the slot's xmin moving. */
const STATUS_INTERVAL_MS = 5_000
/** The server sends a keepalive at half of wal_sender_timeout; twice the timeout of silence is a dead connection. */
const SILENCE_MS = 120_000
/**
 * Under load the walsender writes message by message and each read would bring two or three. Letting data gather in the
 * socket for a moment makes reads large; at rest nothing is delayed.
 */
const GATHER_ABOVE_BYTES = 4 * 1024
const GATHER_MS = 1

/** Hands the bytes on. The shape is the library's plugin, whose base class it does not export. */
class RawPlugin {
  readonly name = 'pgoutput'
  readonly options: { readonly publication: string }
  messages: Buffer[] = []
  bytes = 0

  constructor(publication: string) {
    this.options = { publication }
  }

  start(client: Client, slot: string, lsn: string): Promise<unknown> {
    const publication = this.options.publication.replaceAll('"', '""').replaceAll("'", "''")
    const sql = `START_REPLICATION SLOT "${slot.replaceAll('"', '""')}" LOGICAL ${lsn} (proto_version '4', publication_names '"${publication}"', messages 'true')`
    return client.query(sql)
  }

  parse(message: Buffer): void {
    this.messages.push(message)
    this.bytes += message.length
  }
}

/** The parts of pg's connection that are used here; its types leave them out. */
type Wire = { stream: NodeJS.ReadableStream & { destroy(): void } }

/** Emits batches; errors with POSTGRES_UNAVAILABLE, SLOT_ACTIVE, SLOT_LOST or POSTGRES_REFUSED. Never completes by itself. */
export function replicationSource(options: SourceOptions, onStart: (control: SourceControl) => void): Observable<SourceBatch> {
  return new Observable((subscriber) => {
    const plugin = new RawPlugin(options.publication)
    const { socketDirectory, port, user, password, database } = options.postgres
    const service = new LogicalReplicationService(
      { host: socketDirectory, port, user, password, database, application_name: 'beyond-pg-cdc', options: PINNED, connectionTimeoutMillis: 10_000 },
      { acknowledge: { auto: false, timeoutSeconds: 0 }, flowControl: { enabled: false } },
    )
    let stream: Wire['stream'] | undefined
    let { confirmed } = options
    let sent = confirmed
    let sentAt = 0
    let heardAt = performance.now()
    let idleAt: Lsn | undefined
    let held = false
    let gathering: NodeJS.Timeout | undefined

    const sendStatus = () => {
      // The library reports the position that it is given plus one.
      if (confirmed > LSN_ZERO) void service.acknowledge(formatLsn((confirmed - 1n) as Lsn))
      sent = confirmed
      sentAt = performance.now()
    }
    const timer = setInterval(() => {
      const now = performance.now()
      if (confirmed > sent || now - sentAt > STATUS_INTERVAL_MS) sendStatus()
      // While reading is held back by our own window, silence says nothing about the server.
      if (held) heardAt = now
      else if (now - heardAt > SILENCE_MS) fail(new BeyondError('POSTGRES_UNAVAILABLE', `Postgres has been silent on slot ${options.slot} for ${SILENCE_MS / 1000} s.`))
    }, CONFIRM_INTERVAL_MS)

    const control: SourceControl = {
      confirm: (lsn) => {
        confirmed = maxLsn(confirmed, lsn)
      },
      pause: () => {
        held = true
        stream?.pause()
      },
      resume: () => {
        held = false
        if (!gathering) stream?.resume()
      },
    }

    const fail = (error: unknown) => {
      if (!subscriber.closed) subscriber.error(fromPostgres(error, `reading slot ${options.slot}`))
    }

    /** Called after each read of the socket, when the library has cut it into messages. */
    const endOfRead = () => {
      heardAt = performance.now()
      if (plugin.messages.length === 0 && idleAt === undefined) return
      const batch: SourceBatch = { messages: plugin.messages, bytes: plugin.bytes, idleAt }
      plugin.messages = []
      plugin.bytes = 0
      idleAt = undefined
      subscriber.next(batch)
      if (batch.bytes > GATHER_ABOVE_BYTES && !gathering && !subscriber.closed) {
        stream?.pause()
        gathering = setTimeout(() => {
          gathering = undefined
          if (!held) stream?.resume()
        }, GATHER_MS)
      }
    }

    service.on('data', () => {
      idleAt = undefined
    })
    service.on('heartbeat', (lsn: string, _time: number, replyRequested: boolean) => {
      idleAt = lsnFromServer(lsn)
      if (replyRequested) sendStatus()
    })
    service.on('error', fail)
    service.on('start', () => {
      stream = (service as unknown as { _connection: Wire })._connection.stream
      stream.on('data', endOfRead)
      if (held) stream.pause()
      onStart(control)
    })
    service.subscribe(plugin, options.slot, formatLsn(options.start)).then(
      () => fail(new BeyondError('POSTGRES_UNAVAILABLE', `Postgres ended the stream of slot ${options.slot}.`)),
      fail,
    )

    return () => {
      clearInterval(timer)
      clearTimeout(gathering)
      if (confirmed > sent) sendStatus()
      service.removeAllListeners()
      service.on('error', () => {})
      // A paused socket would never see the end of the connection.
      stream?.removeListener('data', endOfRead)
      stream?.resume()
      void service.stop().catch(() => stream?.destroy())
    }
  })
}

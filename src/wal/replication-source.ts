/**
 * A logical replication slot as a cold Observable of what each read of the socket brought: subscribing connects and
 * starts to stream, unsubscribing ends the connection. Owns the connection, the standby status updates and the
 * watchdog; knows nothing of what the messages mean.
 * Source: https://www.postgresql.org/docs/18/protocol-replication.html
 *
 * pg-logical-replication has the session; CopyData messages are taken out of the stream before its parser. Its own
 * acknowledgement is off (`timeoutSeconds: 0`): with it on, it confirms what was merely received. Backpressure is the
 * socket's: pausing it lets the walsender block.
 */
import { Socket } from 'node:net'
import { LogicalReplicationService } from 'pg-logical-replication'
import type { Client } from 'pg'
import { Observable } from 'rxjs'
import { BeyondError } from '../errors.ts'
import { fromPostgres, type PostgresAddress } from './postgres.ts'
import { ReadPace } from './read-pace.ts'
import { CopyDataReader } from './copy-data.ts'
import { formatLsn, LSN_ZERO, maxLsn, toLsn, type Lsn } from './lsn.ts'

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
  /** pgoutput messages, in order: views that are valid during the call of `next`. */
  readonly messages: readonly Buffer[]
  readonly bytes: number
  /** Postgres has sent everything up to here; set when the last thing in the batch is a keepalive. */
  readonly idleAt: Lsn | undefined
  /** It asks how far we are. Before it shuts down in order it waits until we are as far as it is. */
  readonly asked: boolean
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
const PINNED = '-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=1 -c bytea_output=hex -c lc_monetary=C -c client_encoding=UTF8 -c wal_sender_timeout=60s'

const CONFIRM_INTERVAL_MS = 50
/** A status update at least this often keeps the walsender content (wal_sender_timeout, 60 s) and the slot's xmin moving. */
const STATUS_INTERVAL_MS = 5_000
/** The server sends a keepalive at half of wal_sender_timeout; twice the timeout of silence is a dead connection. */
const SILENCE_MS = 120_000
/** What one read may bring. A Unix socket holds some 200 KB. */
const READ_BYTES = 256 * 1024
/**
 * How long data gathers in the socket between two small reads under load. The whole thread sleeps: a timer waits for a
 * millisecond at least, in which a walsender fills its socket several times over and then stands still. Milliseconds.
 */
const GATHER_MS = 0.3
/** Nobody ever wakes who waits for this. */
const never = new Int32Array(new SharedArrayBuffer(4))

/** Starts the stream. The shape is the library's plugin, whose base class it does not export. */
class StartPlugin {
  readonly name = 'pgoutput'
  readonly options: { readonly publication: string }

  constructor(publication: string) {
    this.options = { publication }
  }

  start(client: Client, slot: string, lsn: string): Promise<unknown> {
    const publication = this.options.publication.replaceAll('"', '""').replaceAll("'", "''")
    const sql = `START_REPLICATION SLOT "${slot.replaceAll('"', '""')}" LOGICAL ${lsn} (proto_version '4', publication_names '"${publication}"', messages 'true')`
    return client.query(sql)
  }

  /** CopyData does not come this way. */
  parse(): void {}
}

/** First byte of what a CopyData message holds. */
const copied = { xLogData: 0x77, keepalive: 0x6b } as const
/** XLogData: its type, start and end of WAL, time. */
const XLOG_DATA_HEADER_BYTES = 25
/** Its type, end of WAL, time, whether an answer is asked for. */
const KEEPALIVE_BYTES = 18

/** Emits batches; errors with POSTGRES_UNAVAILABLE, SLOT_ACTIVE, SLOT_LOST or POSTGRES_REFUSED. Never completes by itself. */
export function replicationSource(options: SourceOptions, onStart: (control: SourceControl) => void): Observable<SourceBatch> {
  return new Observable((subscriber) => {
    let messages: Buffer[] = []
    let bytes = 0
    const cutter = new CopyDataReader({
      copyData: (payload) => {
        if (payload[0] === copied.xLogData) {
          messages.push(payload.subarray(XLOG_DATA_HEADER_BYTES))
          bytes += payload.length
          idleAt = undefined
        } else if (payload[0] === copied.keepalive && payload.length >= KEEPALIVE_BYTES) {
          idleAt = toLsn(payload.readBigUInt64BE(1))
          if (payload[KEEPALIVE_BYTES - 1] === 1) {
            asked = true
            sendStatus()
          }
        }
      },
      // The session is the library's. It may keep what it gets.
      other: (message) => stream.emit('data', Buffer.from(message)),
    })
    // A socket that reads into one buffer of ours: it stops reading when it is paused, and takes no memory for each read.
    const stream = new Socket({
      onread: {
        buffer: Buffer.allocUnsafeSlow(READ_BYTES),
        callback: (length, buffer) => {
          endOfRead((buffer as Buffer).subarray(0, length))
          return true
        },
      },
    })
    const { socketDirectory, port, user, password, database } = options.postgres
    const service = new LogicalReplicationService(
      { stream: () => stream, host: socketDirectory, port, user, password, database, application_name: 'beyond-pg-cdc', options: PINNED, connectionTimeoutMillis: 10_000 },
      { acknowledge: { auto: false, timeoutSeconds: 0 }, flowControl: { enabled: false } },
    )
    let { confirmed } = options
    let sent = confirmed
    let sentAt = 0
    let heardAt = performance.now()
    let idleAt: Lsn | undefined
    let asked = false
    let held = false
    const pace = new ReadPace()

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
        stream.pause()
      },
      resume: () => {
        held = false
        stream.resume()
      },
    }

    const fail = (error: unknown) => {
      if (!subscriber.closed) subscriber.error(fromPostgres(error, `reading slot ${options.slot}`))
    }

    const endOfRead = (chunk: Buffer) => {
      heardAt = performance.now()
      try {
        cutter.push(chunk)
      } catch (error) {
        return fail(error)
      }
      if (subscriber.closed || (messages.length === 0 && idleAt === undefined)) return
      const batch: SourceBatch = { messages, bytes, idleAt, asked }
      messages = []
      bytes = 0
      idleAt = undefined
      asked = false
      subscriber.next(batch)
      if (pace.gatherAfter(batch.bytes, heardAt)) Atomics.wait(never, 0, 0, GATHER_MS)
    }

    service.on('error', fail)
    service.on('start', () => {
      if (held) stream.pause()
      onStart(control)
    })
    service.subscribe(new StartPlugin(options.publication), options.slot, formatLsn(options.start)).then(
      () => fail(new BeyondError('POSTGRES_UNAVAILABLE', `Postgres ended the stream of slot ${options.slot}.`)),
      fail,
    )

    return () => {
      clearInterval(timer)
      if (confirmed > sent) sendStatus()
      service.removeAllListeners()
      service.on('error', () => {})
      // A paused socket would never see the end of the connection.
      stream.resume()
      void service.stop().catch(() => stream.destroy())
    }
  })
}

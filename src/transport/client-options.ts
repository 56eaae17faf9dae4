/** What a subscriber may say, and the one place where it is checked. */
import { readFile } from 'node:fs/promises'
import { isIP } from 'node:net'
import { BeyondError, fromSystem } from '../errors.ts'
import type { Start } from './client-session.ts'
import type { Operation, Welcome } from './envelopes.ts'
import { MAX_SERVER_FRAME_BYTES } from './frame.ts'
import { parsePosition } from './position.ts'
import { parseTimestamp } from './postgres-time.ts'
import type { Credentials, Quic, QuicAddress } from './quic.ts'

export const DEFAULT_PORT = 9443
/** Bounds of the protocol (docs/protocol.md). */
const MAX_PATTERNS = 256
const MAX_CLIENT_NAME_BYTES = 200
const CONSUMER = /^[a-z0-9_-]{1,63}$/
const OPERATIONS: readonly Operation[] = ['insert', 'update', 'delete', 'truncate', 'message']

/** PEM text, or the files that hold it. Files are read again for each connection, so that renewed certificates count. */
export type TlsOptions =
  | { readonly ca: string; readonly cert: string; readonly key: string }
  | { readonly caFile: string; readonly certFile: string; readonly keyFile: string }

export type ConnectOptions = {
  /** `host:port`, `host` or `[2001:db8::1]:port`; the port is 9443 by default. */
  readonly server: string
  readonly tls: TlsOptions
  /** Name that the server's certificate must carry; by default the host of `server`. */
  readonly serverName?: string
  /** Name and version of your program, for the operator to see; at most 200 bytes. */
  readonly client?: string
  /** A connection on which nothing arrives for so long is given up. Milliseconds; 30,000 by default. */
  readonly idleTimeoutMs?: number
  /** Stands in for QUIC over Node's own OpenSSL. */
  readonly quic?: Quic
}

/** What a subscription is doing. */
export type SubscriptionState =
  | { readonly status: 'connecting' }
  /** The server has answered. `resumed`: not for the first time, the stream goes on where it was cut. */
  | { readonly status: 'streaming'; readonly welcome: Welcome; readonly resumed: boolean }
  /** The connection was lost, or could not be made; the next attempt comes in `delayMs`. */
  | { readonly status: 'waiting'; readonly error: BeyondError; readonly attempt: number; readonly delayMs: number }
  | { readonly status: 'closed' }

export type SubscribeOptions = {
  /**
   * Where to begin: the oldest transaction that is kept, after the newest one (the default), after a position that came with
   * an event, or at the first transaction that committed at or after a time (`micros`: microseconds since 1970).
   * A durable consumer begins where it has acknowledged, and uses 'beginning' or 'now' (the default) when it is new.
   */
  readonly from?: 'beginning' | 'now' | (string & {}) | Date | { readonly micros: bigint }
  /** Older positions of yours (`subscription.checkpoints`), with which a broken history can be told from where on. */
  readonly checkpoints?: readonly string[]
  /** Name of a durable consumer: 1 to 63 of a-z, 0-9, _ and -. The server keeps its cursor and the changes behind it. */
  readonly consumer?: string
  /** Patterns of `schema.table`, `*` for any run of characters and `?` for one. All tables by default. At most 256. */
  readonly tables?: readonly string[]
  /** All by default. */
  readonly operations?: readonly Operation[]
  /** 'auto' (the default): what you have seen is acknowledged when you ask for more. 'manual': call `acknowledge`. */
  readonly acknowledge?: 'auto' | 'manual'
  /** Deliver heartbeats, too, as events of kind 'progress'. */
  readonly progress?: boolean
  /** Longest frame, and so the largest change, that is accepted. Bytes; 1 GiB by default, as much as Postgres allows. */
  readonly maxFrameBytes?: number
  /** Ends the subscription, and the iteration without an error. */
  readonly signal?: AbortSignal
  readonly reconnect?: {
    /** The first wait, which doubles with each failure in a row. Milliseconds; 100 by default. */
    readonly minMs?: number
    /** The longest wait. Milliseconds; 5,000 by default. */
    readonly maxMs?: number
    /** Time for the first connection to succeed. Milliseconds; 10,000 by default. */
    readonly connectTimeoutMs?: number
    /** Give a lost connection up after so long. Milliseconds; never by default. */
    readonly giveUpAfterMs?: number
  }
  /** Called with each change of state. */
  readonly onState?: (state: SubscriptionState) => void
}

/** Everything decided: what the rest of the client works with. */
export type SubscriptionConfig = {
  readonly start: Start
  readonly consumer: string | null
  readonly tables: readonly string[]
  readonly operations: readonly Operation[]
  readonly acknowledge: 'auto' | 'manual'
  readonly progress: boolean
  readonly maxFrameBytes: number
  readonly backoff: { readonly minMs: number; readonly maxMs: number }
  readonly connectTimeoutMs: number
  readonly giveUpAfterMs: number
}

const bad = (message: string): BeyondError => new BeyondError('BAD_ARGUMENT', message)

export function subscriptionConfig(options: SubscribeOptions): SubscriptionConfig {
  const { consumer, tables = [], operations = [], reconnect = {} } = options
  if (consumer !== undefined && !CONSUMER.test(consumer))
    throw bad(`The name of a consumer has 1 to 63 of a-z, 0-9, _ and -; ${JSON.stringify(consumer)} is not one.`)
  if (tables.length > MAX_PATTERNS) throw bad(`At most ${MAX_PATTERNS} table patterns can be given.`)
  if (tables.includes('')) throw bad('A table pattern is empty: it looks like public.orders or public.*.')
  const unknown = operations.find((operation) => !OPERATIONS.includes(operation))
  if (unknown !== undefined) throw bad(`${JSON.stringify(unknown)} is not an operation: use ${OPERATIONS.join(', ')}.`)
  return {
    start: startOf(options),
    consumer: consumer ?? null,
    tables,
    operations,
    acknowledge: options.acknowledge ?? 'auto',
    progress: options.progress ?? false,
    maxFrameBytes: options.maxFrameBytes ?? MAX_SERVER_FRAME_BYTES,
    backoff: { minMs: milliseconds(reconnect.minMs, 100, 'minMs'), maxMs: milliseconds(reconnect.maxMs, 5_000, 'maxMs') },
    connectTimeoutMs: milliseconds(reconnect.connectTimeoutMs, 10_000, 'connectTimeoutMs'),
    giveUpAfterMs: milliseconds(reconnect.giveUpAfterMs, Infinity, 'giveUpAfterMs'),
  }
}

function milliseconds(value: number | undefined, otherwise: number, name: string): number {
  if (value !== undefined && !(value >= 0)) throw bad(`${name} is a number of milliseconds, not ${value}.`)
  return value ?? otherwise
}

function startOf({ from, consumer, checkpoints = [] }: SubscribeOptions): Start {
  if (from instanceof Date) {
    if (Number.isNaN(from.getTime())) throw bad('The time to begin at is not a valid Date.')
    return { kind: 'time', micros: BigInt(from.getTime()) * 1000n }
  }
  if (typeof from === 'object') return { kind: 'time', micros: from.micros }
  if (from === undefined || from === 'beginning' || from === 'now') {
    const kind = from === 'beginning' ? 'beginning' : 'now'
    return consumer === undefined ? { kind } : { kind: 'cursor', otherwise: kind }
  }
  return { kind: 'position', position: parsePosition(from), checkpoints: checkpoints.map((text) => parsePosition(text).after) }
}

const ISO_TIME = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d)?(\.\d{1,6})?)?\s*(Z|[+-]\d\d(?::?\d\d)?)?$/i

/**
 * Reads an ISO 8601 time, to the microsecond; without a zone it is UTC. Undefined when it is none.
 * Answers microseconds since 1970.
 */
export function parseIsoTime(text: string): bigint | undefined {
  const match = ISO_TIME.exec(text)
  if (!match) return undefined
  const [, date, minutes = '00:00', seconds = ':00', fraction = '', zone = 'Z'] = match
  const plain = parseTimestamp(`${date} ${minutes}${seconds}${fraction}`, false)
  if (plain === undefined || Number.isNaN(Date.parse(`${date}T00:00:00Z`)) || new Date(`${date}T00:00:00Z`).toISOString().slice(0, 10) !== date)
    return undefined
  if (zone.toUpperCase() === 'Z') return plain
  const offset = Number(zone.slice(1, 3)) * 60 + Number(zone.slice(3).replace(':', '') || 0)
  if (offset > 16 * 60) return undefined
  return plain - BigInt(zone.startsWith('-') ? -offset : offset) * 60_000_000n
}

/** `host:port`, `host`, `[v6]:port`, `v6`. BAD_ARGUMENT otherwise. */
export function parseAddress(text: string): QuicAddress {
  if (isIP(text) === 6) return { host: text, port: DEFAULT_PORT }
  const match = /^(?:\[([^\]]+)\]|([^:[\]\s]+))(?::(\d{1,5}))?$/i.exec(text)
  const port = Number(match?.[3] ?? DEFAULT_PORT)
  const host = match?.[1] ?? match?.[2]
  if (host === undefined || (match?.[1] !== undefined && isIP(host) !== 6) || port < 1 || port > 65535)
    throw bad(`${JSON.stringify(text)} is not an address: it looks like db.example.com:${DEFAULT_PORT}.`)
  return { host, port }
}

export function clientName(name: string): string {
  if (Buffer.byteLength(name) > MAX_CLIENT_NAME_BYTES) throw bad(`The name of a client has at most ${MAX_CLIENT_NAME_BYTES} bytes.`)
  return name
}

export async function loadCredentials(tls: TlsOptions): Promise<Credentials> {
  if ('ca' in tls) return tls
  const [ca, cert, key] = await Promise.all([readPem(tls.caFile), readPem(tls.certFile), readPem(tls.keyFile)])
  return { ca, cert, key }
}

async function readPem(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'EISDIR')
      throw new BeyondError('BAD_CERTIFICATE', `There is no certificate or key file ${file}.`, { cause: error, facts: { path: file } })
    throw fromSystem(error, `reading ${file}`)
  }
}

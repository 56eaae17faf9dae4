/**
 * The fixed envelopes of the protocol, as `schemas/*.avsc` define them, and their codecs.
 * The `.avsc` files are the definition; the types here name the same fields for TypeScript.
 */
import { readFileSync } from 'node:fs'
import avro from 'avsc'
import type { Lsn } from '../wal/lsn.ts'
import { AvroCompiler, AvroCursor } from './avro-reader.ts'

export type Position = { readonly lsn: Lsn; readonly chain: Uint8Array }

export type Operation = 'insert' | 'update' | 'delete' | 'truncate' | 'message'

export type From =
  | { readonly kind: 'beginning' }
  | { readonly kind: 'now' }
  | { readonly kind: 'position'; readonly after: Position; readonly partial?: { readonly lsn: Lsn; readonly index: bigint }; readonly checkpoints: readonly Position[] }
  | { readonly kind: 'time'; readonly micros: bigint }
  | { readonly kind: 'cursor'; readonly otherwise: 'beginning' | 'now' }

export type Subscribe = {
  readonly version: number
  readonly client: string
  readonly from: From
  readonly consumer: string | null
  readonly tables: readonly string[]
  readonly operations: readonly Operation[]
}
export type Ack = { readonly position: Position }
export type StatusRequest = { readonly version: number }
export type Welcome = {
  readonly version: number
  readonly server: string
  readonly history: Uint8Array
  readonly systemId: string
  readonly database: string
  readonly start: Position
  readonly head: Position
  readonly heartbeatMs: number
}
export type Schema = { readonly fingerprint: Uint8Array; readonly schema: string }
export type Begin = { readonly lsn: Lsn; readonly time: bigint; readonly xid: bigint }
export type Truncate = { readonly relations: readonly { readonly schema: string; readonly table: string }[]; readonly cascade: boolean; readonly restartIdentity: boolean }
export type Message = { readonly lsn: Lsn; readonly transactional: boolean; readonly prefix: string; readonly content: Uint8Array }
export type Skip = { readonly changes: bigint }
export type Commit = { readonly lsn: Lsn; readonly endLsn: Lsn; readonly changes: bigint; readonly chain: Uint8Array }
export type Progress = { readonly position: Position; readonly walLsn: Lsn; readonly time: bigint }
export type End = { readonly code: string; readonly message: string; readonly retryAfterMs: number | null; readonly shared: Position | null }

export type SubscriberStatus = {
  readonly id: bigint
  readonly peer: string
  readonly address: string
  readonly client: string
  readonly consumer: string | null
  readonly connected: boolean
  readonly sent: Position | null
  readonly acknowledged: Position | null
  readonly lagBytes: bigint
  readonly lagMs: bigint
  readonly sentBytes: bigint
}
export type Status = {
  readonly server: string
  readonly startedAt: bigint
  readonly state: string
  readonly error: string | null
  readonly history: Uint8Array
  readonly systemId: string
  readonly database: string
  readonly slot: { readonly name: string; readonly publication: string; readonly confirmedLsn: Lsn; readonly receivedLsn: Lsn; readonly walLsn: Lsn; readonly lagBytes: bigint }
  readonly log: {
    readonly oldest: Position
    readonly head: Position
    readonly headTime: bigint | null
    readonly bytes: bigint
    readonly segments: number
    readonly transactions: bigint
    readonly changes: bigint
  }
  readonly subscribers: readonly SubscriberStatus[]
}

/** Avro `long` as bigint: LSNs do not fit into a double. */
export const bigintLong = avro.types.LongType.__with({
  fromBuffer: (bytes: Buffer) => bytes.readBigInt64LE(),
  toBuffer: (value: bigint) => {
    const bytes = Buffer.allocUnsafe(8)
    bytes.writeBigInt64LE(value)
    return bytes
  },
  fromJSON: BigInt,
  toJSON: Number,
  isValid: (value: unknown) => typeof value === 'bigint',
  compare: (a: bigint, b: bigint) => (a < b ? -1 : a > b ? 1 : 0),
} as never)

const registry: Record<string, avro.Type> = {}

/** avsc would take its own LongType, which refuses what a double can't hold. */
function typeHook(schema: unknown): avro.Type | undefined {
  const isLong = schema === 'long' || (typeof schema === 'object' && schema !== null && 'type' in schema && schema.type === 'long')
  return isLong ? bigintLong : undefined
}

function define(name: string): avro.Type {
  const schema: unknown = JSON.parse(readFileSync(new URL(`../../schemas/${name}.avsc`, import.meta.url), 'utf8'))
  return avro.Type.forSchema(schema as avro.Schema, { registry, typeHook, wrapUnions: 'auto' } as never)
}

// The order matters: later schemas refer to types that earlier ones define.
define('position')
const subscribe = define('subscribe')

/** One codec per envelope: value to Avro bytes and back. */
export type Codec<T> = {
  readonly type: avro.Type
  encode(value: T): Buffer
  /** Throws PROTOCOL_VIOLATION on bytes that the schema does not allow. Bytes in the value are copies. */
  decode(bytes: Uint8Array): T
}

/**
 * avsc writes. It does not read what comes from a peer: it believes the length of an array before it has seen the items,
 * and four bytes would make it take hundreds of megabytes.
 */
function codec<T>(type: avro.Type): Codec<T> {
  // Without attributes: a timestamp stays the number of microseconds that the types below promise.
  const read = new AvroCompiler().compile(type.schema({ exportAttrs: false }))
  const cursor = new AvroCursor()
  return {
    type,
    encode: (value) => type.toBuffer(value),
    decode: (bytes) => {
      cursor.reset(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), 0)
      const value = read(cursor)
      cursor.finish()
      return value as T
    },
  }
}
const envelope = <T>(name: string): Codec<T> => codec<T>(define(name))

/** `from` is a union of records in Avro and a union told apart by `kind` here. */
type FromOnWire =
  | { 'dev.beyond.cdc.FromBeginning': object }
  | { 'dev.beyond.cdc.FromNow': object }
  | { 'dev.beyond.cdc.FromPosition': { after: Position; partial: { lsn: bigint; index: bigint } | null; checkpoints: readonly Position[] } }
  | { 'dev.beyond.cdc.FromTime': { time: bigint } }
  | { 'dev.beyond.cdc.FromCursor': { otherwise: 'beginning' | 'now' } }

function fromToWire(from: From): FromOnWire {
  switch (from.kind) {
    case 'beginning':
      return { 'dev.beyond.cdc.FromBeginning': {} }
    case 'now':
      return { 'dev.beyond.cdc.FromNow': {} }
    case 'position':
      return { 'dev.beyond.cdc.FromPosition': { after: from.after, partial: from.partial ?? null, checkpoints: from.checkpoints } }
    case 'time':
      return { 'dev.beyond.cdc.FromTime': { time: from.micros } }
    case 'cursor':
      return { 'dev.beyond.cdc.FromCursor': { otherwise: from.otherwise } }
  }
}

function fromFromWire(wire: FromOnWire): From {
  if ('dev.beyond.cdc.FromBeginning' in wire) return { kind: 'beginning' }
  if ('dev.beyond.cdc.FromNow' in wire) return { kind: 'now' }
  if ('dev.beyond.cdc.FromTime' in wire) return { kind: 'time', micros: wire['dev.beyond.cdc.FromTime'].time }
  if ('dev.beyond.cdc.FromCursor' in wire) return { kind: 'cursor', otherwise: wire['dev.beyond.cdc.FromCursor'].otherwise }
  const { after, partial, checkpoints } = wire['dev.beyond.cdc.FromPosition']
  return { kind: 'position', after, checkpoints, ...(partial ? { partial: { lsn: partial.lsn as Lsn, index: partial.index } } : {}) }
}

const checked = codec<unknown>(subscribe)

export const envelopes = {
  subscribe: {
    type: subscribe,
    encode: (value: Subscribe) => subscribe.toBuffer({ ...value, from: fromToWire(value.from) }),
    decode: (bytes: Uint8Array) => {
      // The bounded reader does not tell the branches of `from` apart; behind it avsc may be trusted with the bytes.
      checked.decode(bytes)
      const wire = subscribe.fromBuffer(Buffer.from(bytes)) as Omit<Subscribe, 'from'> & { from: FromOnWire }
      return { ...wire, from: fromFromWire(wire.from) }
    },
  } as Codec<Subscribe>,
  ack: envelope<Ack>('ack'),
  statusRequest: envelope<StatusRequest>('status-request'),
  welcome: envelope<Welcome>('welcome'),
  schema: envelope<Schema>('schema'),
  begin: envelope<Begin>('begin'),
  truncate: envelope<Truncate>('truncate'),
  message: envelope<Message>('message'),
  skip: envelope<Skip>('skip'),
  commit: envelope<Commit>('commit'),
  progress: envelope<Progress>('progress'),
  end: envelope<End>('end'),
  status: envelope<Status>('status'),
} as const

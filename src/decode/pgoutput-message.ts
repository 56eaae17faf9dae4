/**
 * Messages of pgoutput, protocol version 4 without streaming and two-phase commit, as typed objects.
 * Source: https://www.postgresql.org/docs/18/protocol-logicalrep-message-formats.html
 *
 * For messages that come seldom, for tests and for diagnostics. Rows go another way: see tuple-transcoder.ts.
 */
import { toLsn, type Lsn } from '../wal/lsn.ts'
import { POSTGRES_EPOCH_MICROS } from '../transport/postgres-time.ts'
import { malformed } from './malformed.ts'

/** First byte of each message. */
export const messageType = {
  begin: 0x42, // B
  commit: 0x43, // C
  origin: 0x4f, // O
  relation: 0x52, // R
  type: 0x59, // Y
  insert: 0x49, // I
  update: 0x55, // U
  delete: 0x44, // D
  truncate: 0x54, // T
  message: 0x4d, // M
} as const

/** What stands before a tuple. */
export const tupleTag = {
  key: 0x4b, // K: the old tuple, columns of the replica identity only
  old: 0x4f, // O: the old tuple, whole (REPLICA IDENTITY FULL)
  new: 0x4e, // N
} as const

/** What stands before a column's value. */
export const valueTag = {
  null: 0x6e, // n
  unchanged: 0x75, // u: stored out of line and not touched by the update; the value is not sent
  text: 0x74, // t
  binary: 0x62, // b
} as const

export type ReplicaIdentity = 'default' | 'nothing' | 'full' | 'index'
const replicaIdentities: Readonly<Record<string, ReplicaIdentity>> = { d: 'default', n: 'nothing', f: 'full', i: 'index' }

export type TupleValue = null | 'unchanged' | { readonly text: Buffer }
export type Tuple = readonly TupleValue[]
export type OldTuple = { readonly kind: 'key' | 'full'; readonly tuple: Tuple }

export type RelationColumn = {
  /** Flag bit 0: belongs to the replica identity. Under FULL every column does. */
  readonly key: boolean
  readonly name: string
  readonly typeOid: number
  readonly typmod: number
}
export type Begin = { readonly kind: 'begin'; readonly finalLsn: Lsn; readonly time: bigint; readonly xid: number }
export type Commit = { readonly kind: 'commit'; readonly lsn: Lsn; readonly endLsn: Lsn; readonly time: bigint }
export type Origin = { readonly kind: 'origin'; readonly lsn: Lsn; readonly name: string }
export type Relation = {
  readonly kind: 'relation'
  readonly oid: number
  readonly schema: string
  readonly table: string
  readonly replicaIdentity: ReplicaIdentity
  readonly columns: readonly RelationColumn[]
}
/** `name` is that of the base type if `oid` is a domain. */
export type Type = { readonly kind: 'type'; readonly oid: number; readonly schema: string; readonly name: string }
export type Insert = { readonly kind: 'insert'; readonly relationOid: number; readonly after: Tuple }
export type Update = { readonly kind: 'update'; readonly relationOid: number; readonly before: OldTuple | undefined; readonly after: Tuple }
export type Delete = { readonly kind: 'delete'; readonly relationOid: number; readonly before: OldTuple }
export type Truncate = {
  readonly kind: 'truncate'
  readonly relationOids: readonly number[]
  readonly cascade: boolean
  readonly restartIdentity: boolean
}
export type Message = {
  readonly kind: 'message'
  readonly transactional: boolean
  readonly lsn: Lsn
  readonly prefix: string
  readonly content: Buffer
}
export type PgoutputMessage = Begin | Commit | Origin | Relation | Type | Insert | Update | Delete | Truncate | Message

/** Reads from front to back; every read is checked against the end, nothing is allocated for what is merely announced. */
class Cursor {
  readonly #bytes: Buffer
  #at = 1

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  #take(count: number): number {
    const at = this.#at
    if (count < 0 || at + count > this.#bytes.length)
      malformed(`A pgoutput message '${nameOf(this.#bytes)}' of ${this.#bytes.length} bytes ends too early.`)
    this.#at = at + count
    return at
  }

  get remaining(): number {
    return this.#bytes.length - this.#at
  }

  u8 = (): number => this.#bytes[this.#take(1)]
  u16 = (): number => this.#bytes.readUInt16BE(this.#take(2))
  i32 = (): number => this.#bytes.readInt32BE(this.#take(4))
  u32 = (): number => this.#bytes.readUInt32BE(this.#take(4))
  lsn = (): Lsn => readLsn(this.#bytes, this.#take(8))
  time = (): bigint => readTime(this.#bytes, this.#take(8))

  bytes(count: number): Buffer {
    const at = this.#take(count)
    return this.#bytes.subarray(at, at + count)
  }

  /** Text that ends with a zero byte. */
  text(): string {
    const end = this.#bytes.indexOf(0, this.#at)
    if (end < 0) malformed(`A text in a pgoutput message '${nameOf(this.#bytes)}' has no end.`)
    const text = this.#bytes.toString('utf8', this.#at, end)
    this.#at = end + 1
    return text
  }

  tuple(): Tuple {
    const count = this.u16()
    if (count > this.remaining) malformed(`A tuple announces ${count} columns in ${this.remaining} bytes.`)
    return Array.from({ length: count }, () => this.#value())
  }

  #value(): TupleValue {
    const tag = this.u8()
    switch (tag) {
      case valueTag.null:
        return null
      case valueTag.unchanged:
        return 'unchanged'
      case valueTag.text:
        return { text: this.bytes(this.i32()) }
      default:
        return malformed(`A tuple holds a value of kind ${tag}; only null, unchanged and text are asked for.`)
    }
  }

  end(): void {
    if (this.remaining !== 0) malformed(`A pgoutput message '${nameOf(this.#bytes)}' has ${this.remaining} bytes too many.`)
  }
}

/** The LSN at `at`, where 8 bytes must be. The upper half of what 64 bits hold is no LSN, since Avro's long is signed. */
export function readLsn(message: Buffer, at: number): Lsn {
  if (message[at] > 127) malformed('Postgres sent an LSN that no log reaches.')
  return toLsn(message.readBigUInt64BE(at))
}

const EPOCH = BigInt(POSTGRES_EPOCH_MICROS)
const LAST_TIME = 2n ** 63n - 1n

/** The time at `at`, where 8 bytes must be: microseconds since 1970. */
export function readTime(message: Buffer, at: number): bigint {
  const time = message.readBigInt64BE(at) + EPOCH
  if (time > LAST_TIME) malformed('Postgres sent a commit time that is beyond 64 bits.')
  return time
}

const nameOf = (message: Buffer): string => String.fromCharCode(message[0])

/** Decodes one message (the payload of XLogData). Texts are copied, values and contents are views. Throws BAD_REPLICATION_DATA. */
export function decodeMessage(message: Buffer): PgoutputMessage {
  if (message.length === 0) malformed('A pgoutput message is empty.')
  const cursor = new Cursor(message)
  const decoded = decodeBody(message, cursor)
  cursor.end()
  return decoded
}

function decodeBody(message: Buffer, cursor: Cursor): PgoutputMessage {
  switch (message[0]) {
    case messageType.begin:
      return { kind: 'begin', finalLsn: cursor.lsn(), time: cursor.time(), xid: cursor.u32() }
    case messageType.commit:
      cursor.u8() // flags, unused
      return { kind: 'commit', lsn: cursor.lsn(), endLsn: cursor.lsn(), time: cursor.time() }
    case messageType.origin:
      return { kind: 'origin', lsn: cursor.lsn(), name: cursor.text() }
    case messageType.relation:
      return relation(cursor)
    case messageType.type:
      return { kind: 'type', oid: cursor.u32(), schema: namespace(cursor.text()), name: cursor.text() }
    case messageType.insert: {
      const relationOid = cursor.u32()
      return { kind: 'insert', relationOid, after: newTuple(cursor, cursor.u8()) }
    }
    case messageType.update: {
      const relationOid = cursor.u32()
      const tag = cursor.u8()
      if (tag === tupleTag.new) return { kind: 'update', relationOid, before: undefined, after: newTuple(cursor, tag) }
      const before = oldTuple(cursor, tag)
      return { kind: 'update', relationOid, before, after: newTuple(cursor, cursor.u8()) }
    }
    case messageType.delete:
      return { kind: 'delete', relationOid: cursor.u32(), before: oldTuple(cursor, cursor.u8()) }
    case messageType.truncate:
      return truncate(cursor)
    case messageType.message: {
      const transactional = (cursor.u8() & 1) !== 0
      return { kind: 'message', transactional, lsn: cursor.lsn(), prefix: cursor.text(), content: cursor.bytes(cursor.i32()) }
    }
    default:
      return unexpected(message)
  }
}

const unasked: Readonly<Record<string, string>> = {
  S: 'Stream Start', E: 'Stream Stop', c: 'Stream Commit', A: 'Stream Abort',
  b: 'Begin Prepare', P: 'Prepare', K: 'Commit Prepared', r: 'Rollback Prepared', p: 'Stream Prepare',
}

/** For a message that we never ask for, or that no version of the protocol knows. */
export function unexpected(message: Buffer): never {
  const name = unasked[nameOf(message)]
  if (name !== undefined) return malformed(`Postgres sent a ${name} message although neither streaming nor two-phase commit was asked for.`)
  return malformed(`Postgres sent a pgoutput message of unknown type ${message[0]}.`)
}

/** pg_catalog is sent as an empty name. */
const namespace = (sent: string): string => (sent === '' ? 'pg_catalog' : sent)

function relation(cursor: Cursor): Relation {
  const oid = cursor.u32()
  const schema = namespace(cursor.text())
  const table = cursor.text()
  const identity = String.fromCharCode(cursor.u8())
  const replicaIdentity =
    replicaIdentities[identity] ?? malformed(`Relation ${schema}.${table} has an unknown replica identity '${identity}'.`)
  const count = cursor.u16()
  // A column takes ten bytes at least.
  if (count * 10 > cursor.remaining) malformed(`Relation ${schema}.${table} announces ${count} columns in ${cursor.remaining} bytes.`)
  const columns = Array.from({ length: count }, () => ({
    key: (cursor.u8() & 1) !== 0,
    name: cursor.text(),
    typeOid: cursor.u32(),
    typmod: cursor.i32(),
  }))
  return { kind: 'relation', oid, schema, table, replicaIdentity, columns }
}

function truncate(cursor: Cursor): Truncate {
  const count = cursor.u32()
  const options = cursor.u8()
  if (count * 4 !== cursor.remaining) malformed(`A TRUNCATE announces ${count} relations in ${cursor.remaining} bytes.`)
  const relationOids = Array.from({ length: count }, () => cursor.u32())
  return { kind: 'truncate', relationOids, cascade: (options & 1) !== 0, restartIdentity: (options & 2) !== 0 }
}

function oldTuple(cursor: Cursor, tag: number): OldTuple {
  if (tag !== tupleTag.key && tag !== tupleTag.old) malformed(`An old tuple was expected, not ${tag}.`)
  return { kind: tag === tupleTag.key ? 'key' : 'full', tuple: cursor.tuple() }
}

function newTuple(cursor: Cursor, tag: number): Tuple {
  if (tag !== tupleTag.new) malformed(`A new tuple was expected, not ${tag}.`)
  return cursor.tuple()
}

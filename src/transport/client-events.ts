/**
 * What a subscriber gets to see. One class per kind keeps each event small and alike in memory;
 * what costs time to make (positions as text, keys, dates) is made when it is asked for.
 */
import type { Lsn } from '../wal/lsn.ts'
import type { Position } from './envelopes.ts'
import { formatPartial, formatTransactionPosition } from './position.ts'

/** Stands for a value that Postgres did not send because the update did not touch it (unchanged TOAST). */
export const unchanged: unique symbol = Symbol.for('beyond-pg.unchanged')

/**
 * A value of a column: boolean for bool; number for int2, int4, float4, float8; bigint for int8 and oid; Uint8Array for bytea;
 * null for NULL; `unchanged`; a string that holds the exact text of Postgres for every other type, dates and timestamps included.
 */
export type Value = string | number | bigint | boolean | null | Uint8Array | typeof unchanged

/** Column name, exactly as in Postgres, to value. */
export type Row = Readonly<Record<string, Value>>

export type Column = {
  /** Exactly as in Postgres. */
  readonly name: string
  /** Name of the Postgres type, with its schema where it isn't pg_catalog. */
  readonly type: string
  readonly oid: number
  /** Type modifier, such as the length of a varchar; -1 for none. */
  readonly typmod: number
  /** Part of the replica identity. */
  readonly key: boolean
}

/** One version of a table. A change of its definition makes another one. */
export type Table = {
  readonly schema: string
  readonly name: string
  readonly oid: number
  readonly replicaIdentity: 'default' | 'nothing' | 'full' | 'index'
  readonly columns: readonly Column[]
  /** Identifies this version: the fingerprint of its Avro schema, 16 hexadecimal digits. */
  readonly fingerprint: string
}

/** The transaction that an event belongs to. */
export class TransactionInfo {
  /** Commit LSN. */
  readonly lsn: Lsn
  /** Transaction id; 0 for a logical message outside of a transaction. */
  readonly xid: number
  /** Commit time, microseconds since 1970; 0 where there is none (a logical message outside of a transaction). */
  readonly micros: bigint
  readonly #previous: Position
  #previousText: string | undefined

  constructor(lsn: Lsn, xid: number, micros: bigint, previous: Position) {
    this.lsn = lsn
    this.xid = xid
    this.micros = micros
    this.#previous = previous
  }

  /** Commit time, cut to milliseconds. */
  get time(): Date | undefined {
    return this.micros === 0n ? undefined : new Date(Number(this.micros / 1000n))
  }

  /** The position after change `index` of it; 0 is before the first. */
  position(index: number): string {
    this.#previousText ??= formatTransactionPosition(this.#previous)
    return index === 0 ? this.#previousText : formatPartial(this.#previousText, this.lsn, index, this.micros)
  }
}

export class Begin {
  readonly kind = 'begin'
  readonly transaction: TransactionInfo

  constructor(transaction: TransactionInfo) {
    this.transaction = transaction
  }

  get position(): string {
    return this.transaction.position(0)
  }
}

/** A row was inserted, updated or deleted. Its public face is InsertEvent, UpdateEvent and DeleteEvent. */
export class RowChange {
  readonly kind: 'insert' | 'update' | 'delete'
  readonly transaction: TransactionInfo
  readonly index: number
  readonly table: Table
  readonly before: Row | null
  readonly after: Row | null

  constructor(kind: RowChange['kind'], transaction: TransactionInfo, index: number, table: Table, before: Row | null, after: Row | null) {
    this.kind = kind
    this.transaction = transaction
    this.index = index
    this.table = table
    this.before = before
    this.after = after
  }

  get position(): string {
    return this.transaction.position(this.index)
  }

  get key(): Row {
    const row = (this.before ?? this.after) as Row
    const key: Record<string, Value> = {}
    for (const column of this.table.columns)
      if (column.key && Object.hasOwn(row, column.name))
        Object.defineProperty(key, column.name, { value: row[column.name], writable: true, enumerable: true, configurable: true })
    return key
  }

  get unchanged(): readonly string[] {
    const { after } = this
    if (after === null) return []
    return this.table.columns.filter((column) => after[column.name] === unchanged).map((column) => column.name)
  }
}

export class Truncate {
  readonly kind = 'truncate'
  readonly transaction: TransactionInfo
  readonly index: number
  readonly tables: readonly { readonly schema: string; readonly name: string }[]
  readonly cascade: boolean
  readonly restartIdentity: boolean

  constructor(transaction: TransactionInfo, index: number, tables: Truncate['tables'], cascade: boolean, restartIdentity: boolean) {
    this.transaction = transaction
    this.index = index
    this.tables = tables
    this.cascade = cascade
    this.restartIdentity = restartIdentity
  }

  get position(): string {
    return this.transaction.position(this.index)
  }
}

/** pg_logical_emit_message(). */
export class Message {
  readonly kind = 'message'
  readonly transaction: TransactionInfo
  readonly index: number
  /** LSN of the message itself. */
  readonly lsn: Lsn
  readonly transactional: boolean
  readonly prefix: string
  readonly content: Uint8Array

  constructor(transaction: TransactionInfo, index: number, lsn: Lsn, transactional: boolean, prefix: string, content: Uint8Array) {
    this.transaction = transaction
    this.index = index
    this.lsn = lsn
    this.transactional = transactional
    this.prefix = prefix
    this.content = content
  }

  get position(): string {
    return this.transaction.position(this.index)
  }
}

export class Commit {
  readonly kind = 'commit'
  readonly transaction: TransactionInfo
  /** First LSN after the commit record. */
  readonly endLsn: Lsn
  /** How many changes, truncates and messages the transaction holds, those that a filter left out included. */
  readonly changes: number
  readonly #position: Position

  constructor(transaction: TransactionInfo, endLsn: Lsn, changes: number, position: Position) {
    this.transaction = transaction
    this.endLsn = endLsn
    this.changes = changes
    this.#position = position
  }

  get position(): string {
    return formatTransactionPosition(this.#position)
  }
}

/** The next change of this table has another definition than the one before. Comes for the first change of each table too. */
export class SchemaChange {
  readonly kind = 'schema'
  readonly transaction: TransactionInfo
  /** Index of the last change before it; 0 when it is the first thing in its transaction. */
  readonly index: number
  readonly table: Table
  /** The definition until now; null for a table that this subscription has not met yet. */
  readonly previous: Table | null

  constructor(transaction: TransactionInfo, index: number, table: Table, previous: Table | null) {
    this.transaction = transaction
    this.index = index
    this.table = table
    this.previous = previous
  }

  get position(): string {
    return this.transaction.position(this.index)
  }
}

/** A heartbeat: everything up to here was delivered, or left out by the filter. */
export class Progress {
  readonly kind = 'progress'
  /** Postgres has been read up to this LSN. */
  readonly walLsn: Lsn
  /** The server's clock, microseconds since 1970. */
  readonly micros: bigint
  readonly #position: Position

  constructor(position: Position, walLsn: Lsn, micros: bigint) {
    this.#position = position
    this.walLsn = walLsn
    this.micros = micros
  }

  get time(): Date {
    return new Date(Number(this.micros / 1000n))
  }

  get position(): string {
    return formatTransactionPosition(this.#position)
  }
}

type OfRow = Omit<RowChange, 'kind' | 'before' | 'after'> & {
  /** Place in the transaction; the first is 1. */
  readonly index: number
  /** Resume from here to get what follows this event. */
  readonly position: string
  /** The columns of the replica identity, as they were before the change; of an insert, as they are now. */
  readonly key: Row
  /** Columns of `after` whose value is `unchanged`. */
  readonly unchanged: readonly string[]
}
export type InsertEvent = OfRow & { readonly kind: 'insert'; readonly before: null; readonly after: Row }
export type UpdateEvent = OfRow & {
  readonly kind: 'update'
  /** REPLICA IDENTITY FULL: the whole old row. Otherwise the old key if it has changed, else null. */
  readonly before: Row | null
  readonly after: Row
}
export type DeleteEvent = OfRow & {
  readonly kind: 'delete'
  /** REPLICA IDENTITY FULL: the whole old row. Otherwise its key. */
  readonly before: Row
  readonly after: null
}
export type RowEvent = InsertEvent | UpdateEvent | DeleteEvent
export type ChangeEvent = Begin | RowEvent | Truncate | Message | Commit | SchemaChange | Progress

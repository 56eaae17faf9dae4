/** Events as lines for people: time, what happened, the table, its key, then what is known of the row. Pure. */
import {
  formatLsn,
  unchanged,
  type ChangeEvent,
  type Column,
  type Row,
  type RowEvent,
  type Table,
  type TransactionInfo,
  type Value,
} from '../transport/client.ts'
import { hex, shortestFloat4 } from './format-json.ts'
import { fit, printable, renderLine, type Piece, type Style } from './terminal.ts'

export type LineOptions = {
  readonly color: boolean
  /** Width of the terminal; Infinity when it is none: nothing is cut then. */
  readonly columns: () => number
  /** Times in UTC instead of the local zone. */
  readonly utc: boolean
}

/** On a terminal a value takes so many columns at most. */
const MAX_VALUE_COLUMNS = 60
const FLOAT4_OID = 700
const signs: Record<RowEvent['kind'], readonly [string, Style]> = { insert: ['+', 'green'], update: ['~', 'yellow'], delete: ['-', 'red'] }

/** Local date and time of a transaction; '' for one without. */
export function shownTime(transaction: Pick<TransactionInfo, 'time'>, utc: boolean): { readonly date: string; readonly time: string } {
  const at = transaction.time
  if (!at) return { date: '', time: ' '.repeat(12) }
  const local = utc ? at : new Date(at.getTime() - at.getTimezoneOffset() * 60_000)
  const iso = local.toISOString()
  return { date: iso.slice(0, iso.indexOf('T')), time: iso.slice(iso.indexOf('T') + 1, -1) }
}

const PLAIN_TEXT = /^[^\s'=→()][^\s'=→]*$/u
/** Their texts have a space in it, which needs no quotes to be understood. */
const TIMES = new Set(['timestamp', 'timestamptz'])

function valueText(value: Value, column: Column, columns: number): string {
  const text = wholeText(value, column)
  return columns === Infinity ? text : fit(text, MAX_VALUE_COLUMNS)
}

function wholeText(value: Value, { oid, type }: Column): string {
  if (value === null) return 'NULL'
  if (value === unchanged) return '(unchanged)'
  if (typeof value === 'number') return oid === FLOAT4_OID ? shortestFloat4(value) : Object.is(value, -0) ? '-0' : String(value)
  if (typeof value === 'string')
    return (PLAIN_TEXT.test(value) && value !== 'NULL') || TIMES.has(type) ? printable(value) : `'${printable(value)}'`
  return value instanceof Uint8Array ? hex(value) : String(value)
}

export class ChangeFormatter {
  readonly #options: LineOptions
  #date: string

  /** `today`: the date that needs no mention, as `shownTime` gives it. */
  constructor(options: LineOptions, today: string) {
    this.#options = options
    this.#date = today
  }

  /** The lines of an event, each with its end; '' when people need not see it. `transactions`: begin and commit, too. */
  lines(event: ChangeEvent, transactions: boolean): string {
    if (event.kind === 'progress') return ''
    if ((event.kind === 'begin' || event.kind === 'commit') && !transactions) return ''
    if (event.kind === 'schema' && event.previous === null) return ''
    const { date, time } = shownTime(event.transaction, this.#options.utc)
    const newDay = date !== '' && date !== this.#date
    if (newDay) this.#date = date
    const day = newDay ? this.#line([[`── ${date} ──`, 'dim']]) : ''
    return day + this.#line([[`${time} `, 'dim'], ...this.#pieces(event)])
  }

  #line(pieces: readonly Piece[]): string {
    return `${renderLine(pieces, { color: this.#options.color, columns: this.#options.columns() })}\n`
  }

  #pieces(event: Exclude<ChangeEvent, { kind: 'progress' }>): readonly Piece[] {
    switch (event.kind) {
      case 'begin':
        return [[`┌ begin ${transactionName(event.transaction)}`, 'dim']]
      case 'commit':
        return [[`└ commit ${transactionName(event.transaction)}, ${count(event.changes, 'change')}`, 'dim']]
      case 'schema':
        return [[`  ${tableName(event.table)} is now: ${definitionChange(event.previous as Table, event.table)}`, 'dim']]
      case 'truncate': {
        const more = `${event.cascade ? ' cascade' : ''}${event.restartIdentity ? ' restart identity' : ''}`
        return [['× ', 'red'], [event.tables.map((table) => tableName(table)).join(', '), 'cyan'], [` truncated${more}`]]
      }
      case 'message':
        return [['» ', 'magenta'], [printable(event.prefix), 'magenta'], [` ${printable(Buffer.from(event.content).toString('utf8'))}`]]
      default: {
        const [sign, style] = signs[event.kind]
        return [[`${sign} `, style], [tableName(event.table), 'cyan'], ...this.#row(event)]
      }
    }
  }

  #row(event: RowEvent): readonly Piece[] {
    const { columns } = event.table
    if (event.kind === 'insert') return columns.flatMap((column) => this.#cell(column, event.after, column.key ? 'bold' : 'plain'))
    if (event.kind === 'delete') return columns.flatMap((column) => this.#cell(column, event.before, column.key ? 'bold' : 'plain'))
    const { before, after } = event
    const isChanged = ({ name }: Column): boolean => before !== null && Object.hasOwn(before, name) && !sameValue(before[name], after[name])
    if (event.table.replicaIdentity === 'full') {
      // What changed first: it is what people look for, and the width may not be enough for all.
      const [changed, rest] = partition(columns, isChanged)
      return [
        ...changed.flatMap((column) => this.#cell(column, after, 'plain', before)),
        ...rest.flatMap((column) => this.#cell(column, after, 'dim')),
      ]
    }
    const [keys, rest] = partition(columns, ({ key }) => key)
    return [
      ...keys.flatMap((column) => this.#cell(column, after, 'bold', isChanged(column) ? before : null)),
      ...rest.flatMap((column) => this.#cell(column, after, after[column.name] === unchanged ? 'dim' : 'plain')),
    ]
  }

  /** ` name=value`, or ` name=old → new`. */
  #cell(column: Column, row: Row, style: Style, old: Row | null = null): readonly Piece[] {
    if (!Object.hasOwn(row, column.name)) return []
    const name: Piece = [` ${printable(column.name)}=`, 'dim']
    const value: Piece = [valueText(row[column.name], column, this.#options.columns()), style]
    if (!old) return [name, value]
    return [name, [valueText(old[column.name], column, this.#options.columns()), 'red'], [' → ', 'dim'], [value[0], 'green']]
  }
}

const tableName = ({ schema, name }: { schema: string; name: string }): string => printable(`${schema}.${name}`)
const transactionName = ({ xid, lsn }: TransactionInfo): string => `${xid === 0 ? '' : `xid ${xid} `}at ${formatLsn(lsn)}`
export const count = (number: number | bigint, noun: string): string => `${number} ${noun}${BigInt(number) === 1n ? '' : 's'}`

function partition<T>(items: readonly T[], matches: (item: T) => boolean): readonly [readonly T[], readonly T[]] {
  return [items.filter(matches), items.filter((item) => !matches(item))]
}

function sameValue(a: Value, b: Value): boolean {
  if (a instanceof Uint8Array && b instanceof Uint8Array) return Buffer.compare(a, b) === 0
  return Object.is(a, b) || b === unchanged
}

/** `+total numeric, -note, id int4 → int8`. */
function definitionChange(before: Table, after: Table): string {
  const old = new Map(before.columns.map((column) => [column.name, column]))
  const now = new Map(after.columns.map((column) => [column.name, column]))
  const added = after.columns.filter(({ name }) => !old.has(name)).map(({ name, type }) => `+${name} ${type}`)
  const dropped = before.columns.filter(({ name }) => !now.has(name)).map(({ name }) => `-${name}`)
  const retyped = after.columns
    .filter(({ name, type }) => old.has(name) && old.get(name)?.type !== type)
    .map(({ name, type }) => `${name} ${old.get(name)?.type} → ${type}`)
  const identity = before.replicaIdentity === after.replicaIdentity ? [] : [`replica identity ${after.replicaIdentity}`]
  const all = [...added, ...dropped, ...retyped, ...identity]
  return printable(all.length > 0 ? all.join(', ') : after.columns.map(({ name, type }) => `${name} ${type}`).join(', '))
}

/**
 * Events as JSON, one object a line. Lossless: bigints are JSON numbers with all their digits, bytea is Postgres's `\x…`,
 * what JSON has no number for is a string. Pure.
 */
import {
  formatLsn,
  unchanged,
  type ChangeEvent,
  type Column,
  type Row,
  type Table,
  type TransactionInfo,
  type Value,
} from '../transport/client.ts'
import { formatTimestamp } from '../transport/postgres-time.ts'

const FLOAT4_OID = 700

/** `2026-11-22T09:40:00.123456Z`, with as many digits as it needs. */
export function isoTime(micros: bigint): string {
  return `${formatTimestamp(micros, false).replace(' ', 'T')}Z`
}

/** The shortest text that reads back as the same single-precision number. */
export function shortestFloat4(value: number): string {
  if (!Number.isFinite(value) || Object.is(value, -0)) return Object.is(value, -0) ? '-0' : String(value)
  for (let digits = 6; digits < 9; digits++) {
    const text = Number(value.toPrecision(digits))
    if (Math.fround(text) === value) return String(text)
  }
  return String(Number(value.toPrecision(9)))
}

function numberText(value: number, typeOid: number): string {
  if (!Number.isFinite(value)) return `"${value}"`
  if (typeOid === FLOAT4_OID) return shortestFloat4(value)
  return Object.is(value, -0) ? '-0' : String(value)
}

export const hex = (bytes: Uint8Array): string => `\\x${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')}`

function jsonValue(value: Value, typeOid: number): string {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value)
    case 'number':
      return numberText(value, typeOid)
    case 'bigint':
      return value.toString()
    case 'boolean':
      return value ? 'true' : 'false'
    case 'object':
      return value === null ? 'null' : JSON.stringify(value instanceof Uint8Array ? hex(value) : value)
    default:
      throw new TypeError(`a ${typeof value} is not a value of a column`)
  }
}

/** Columns of a row in the order of the table; those that Postgres did not send are left out. */
function jsonRow(row: Row | null, columns: readonly Column[]): string {
  if (row === null) return 'null'
  let text = ''
  for (const { name, oid } of columns) {
    const value = row[name]
    if (value === undefined || value === unchanged || !Object.hasOwn(row, name)) continue
    text += `${text === '' ? '' : ','}${JSON.stringify(name)}:${jsonValue(value, oid)}`
  }
  return `{${text}}`
}

function place({ lsn, xid, micros }: TransactionInfo): string {
  const time = micros === 0n ? 'null' : `"${isoTime(micros)}"`
  return `"lsn":"${formatLsn(lsn)}","xid":${xid},"time":${time}`
}

const named = ({ schema, name }: { readonly schema: string; readonly name: string }): string =>
  `"schema":${JSON.stringify(schema)},"table":${JSON.stringify(name)}`

const columnsOf = ({ columns }: Table): string =>
  JSON.stringify(columns.map(({ name, type, typmod, key }) => ({ name, type, typmod, key })))

/** The content of a logical message as text, null when it is not UTF-8. */
function textOf(content: Uint8Array): string {
  try {
    return JSON.stringify(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(content))
  } catch {
    return 'null'
  }
}

/** Without the line's end. */
export function jsonLine(event: ChangeEvent): string {
  const end = `"position":"${event.position}"}`
  if (event.kind === 'progress') return `{"op":"progress","walLsn":"${formatLsn(event.walLsn)}","time":"${isoTime(event.micros)}",${end}`
  const where = place(event.transaction)
  switch (event.kind) {
    case 'begin':
      return `{"op":"begin",${where},${end}`
    case 'commit':
      return `{"op":"commit",${where},"changes":${event.changes},${end}`
    case 'schema': {
      const { table } = event
      return `{"op":"schema",${named(table)},${where},"replicaIdentity":"${table.replicaIdentity}","columns":${columnsOf(table)},${end}`
    }
    case 'truncate': {
      const { cascade, restartIdentity, index } = event
      const tables = event.tables.map((table) => `{${named(table)}}`).join(',')
      return `{"op":"truncate","tables":[${tables}],"cascade":${cascade},"restartIdentity":${restartIdentity},"index":${index},${where},${end}`
    }
    case 'message': {
      const what = `"prefix":${JSON.stringify(event.prefix)},"content":${JSON.stringify(hex(event.content))},"text":${textOf(event.content)}`
      return `{"op":"message",${what},"transactional":${event.transactional},"index":${event.index},${where},${end}`
    }
    default: {
      const { table, index, unchanged: missing } = event
      const row = (name: 'key' | 'before' | 'after') => `"${name}":${jsonRow(event[name], table.columns)}`
      const note = missing.length > 0 ? `"unchanged":${JSON.stringify(missing)},` : ''
      return `{"op":"${event.kind}",${named(table)},"index":${index},${where},${row('key')},${row('before')},${row('after')},${note}${end}`
    }
  }
}

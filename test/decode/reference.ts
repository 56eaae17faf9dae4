/** What a change must come out as, the slow and obvious way: decoded message and relation → the value that avsc reads. */
import { kindOf, valueKind } from '../../src/decode/column-type.ts'
import type { Delete, Insert, Relation, TupleValue, Update } from '../../src/decode/pgoutput-message.ts'
import { fieldNames } from '../../src/decode/relation-schema.ts'
import { parseDate, parseTimestamp } from '../../src/transport/postgres-time.ts'

export function expectedChange(change: Insert | Update | Delete, relation: Relation): unknown {
  const full = relation.replicaIdentity === 'full'
  const names = fieldNames(relation.columns.map(({ name }) => name))
  const record = (values: readonly TupleValue[], keyOnly: boolean) =>
    Object.fromEntries(values.flatMap((value, i) => (keyOnly && !relation.columns[i]!.key ? [] : [[names[i], expectedValue(value,
      relation.columns[i]!.typeOid)]])))
  const old = change.kind === 'insert' ? undefined : change.before?.tuple
  const before = old === undefined ? null : full ? { Row: record(old, false) } : { Key: record(old, true) }
  if (change.kind === 'delete') return { op: 'delete', before, after: null }
  const filled = change.after.map((value, i) => (value === 'unchanged' && full && old && old[i] !== null ? old[i]! : value))
  return { op: change.kind, before, after: { Row: record(filled, false) } }
}

export function expectedValue(value: TupleValue, typeOid: number): unknown {
  if (value === null) return null
  if (value === 'unchanged') return { 'dev.beyond.cdc.Unchanged': {} }
  const text = value.text.toString()
  switch (kindOf(typeOid)) {
    case valueKind.boolean:
      return { boolean: text === 't' }
    case valueKind.int:
      return { int: Number(text) }
    case valueKind.long:
      return { long: BigInt(text) }
    case valueKind.float:
      return { float: Math.fround(Number(text)) }
    case valueKind.double:
      return { double: Number(text) }
    case valueKind.bytes:
      return { bytes: text.slice(2).toLowerCase() }
    case valueKind.date: {
      const days = parseDate(text)
      return days === undefined ? { string: text } : { int: days }
    }
    case valueKind.timestamp:
    case valueKind.timestamptz: {
      const micros = parseTimestamp(text, kindOf(typeOid) === valueKind.timestamptz)
      return micros === undefined || BigInt.asIntN(64, micros) !== micros ? { string: text } : { long: micros }
    }
    default:
      return { string: text }
  }
}

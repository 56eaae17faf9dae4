/**
 * From the Avro schema of a relation version to a reader of its changes: Change bodies in, rows out.
 * Layout of the schema: docs/protocol.md. What it must hold is checked here; everything else in it is left alone,
 * so that a server may say more about a column than this client understands.
 */
import { BeyondError } from '../errors.ts'
import { AvroCompiler, AvroCursor, asFields, asObject, asText, recordReader, type AvroField, type AvroReader } from './avro-reader.ts'
import { unchanged, type Column, type Row, type Table } from './client-events.ts'
import { SINGLE_OBJECT_HEADER_BYTES } from './frame.ts'

const UNCHANGED = 'dev.beyond.cdc.Unchanged'
const OPERATIONS = ['insert', 'update', 'delete'] as const
const IDENTITIES = ['default', 'nothing', 'full', 'index'] as const

export type RowOperation = (typeof OPERATIONS)[number]
export type DecodedChange = { readonly op: RowOperation; readonly before: Row | null; readonly after: Row | null }

/** Reads the changes of one relation version. */
export type RelationReader = {
  readonly table: Table
  /** `body` of a Change frame: marker and fingerprint have been looked at already. Values are copies. */
  read(body: Buffer): DecodedChange
}

const violation = (what: string, cause?: unknown): BeyondError =>
  new BeyondError('PROTOCOL_VIOLATION', `The server sent a schema that can't be used: ${what}.`, { cause })

/** Throws PROTOCOL_VIOLATION for what is not the schema of a Change. */
export function compileRelation(fingerprint: string, schemaText: string): RelationReader {
  const change = asObject(parse(schemaText), 'it')
  const namespace = typeof change['namespace'] === 'string' ? change['namespace'] : ''
  const [op, before, after, ...more] = asFields(change)
  if (change['type'] !== 'record' || op?.name !== 'op' || before?.name !== 'before' || after?.name !== 'after' || more.length > 0)
    throw violation('it is not a record of op, before and after')
  const symbols = asObject(op.type, 'the type of op')['symbols']
  if (!Array.isArray(symbols) || symbols.join() !== OPERATIONS.join()) throw violation('its operations are not insert, update, delete')

  const compiler = new AvroCompiler(new Map([[UNCHANGED, () => unchanged]]))
  const rows = new Map<string, Column[]>()
  const readBefore = rowReader(before, namespace, compiler, rows)
  const readAfter = rowReader(after, namespace, compiler, rows)
  const table = tableOf(change['relation'], fingerprint, columnsOf(after, rows))
  const cursor = new AvroCursor()

  const read = (body: Buffer): DecodedChange => {
    cursor.reset(body, SINGLE_OBJECT_HEADER_BYTES)
    const operation = OPERATIONS[cursor.int()]
    const old = readBefore(cursor) as Row | null
    const now = readAfter(cursor) as Row | null
    cursor.finish()
    const isSane = operation === 'delete' ? old !== null && now === null : now !== null && (operation === 'update' || old === null)
    if (operation === undefined || !isSane)
      throw new BeyondError('PROTOCOL_VIOLATION', 'The server sent a change without the row that its operation needs.')
    return { op: operation, before: old, after: now }
  }
  return { table, read }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw violation('it is not JSON', error)
  }
}

/** `before` and `after` are null or a record of columns, which the other one may refer to by name. */
function rowReader(field: AvroField, namespace: string, compiler: AvroCompiler, rows: Map<string, Column[]>): AvroReader {
  const { type } = field
  if (!Array.isArray(type) || type.length !== 2 || type[0] !== 'null') throw violation(`${field.name} is not a union of null and a row`)
  const row: unknown = type[1]
  if (typeof row === 'string') return compiler.compile(type, namespace)
  const schema = asObject(row, 'a row')
  const fields = asFields(schema)
  const columns = fields.map(columnOf)
  const names = columns.map((column) => column.name)
  if (new Set(names).size !== names.length) throw violation('two columns have the same name')
  rows.set(asText(schema['name'], 'the name of a row'), columns)
  const read = compiler.define(
    schema,
    namespace,
    (inner) => recordReader(names, fields.map((column) => compiler.compile(column.type, inner))),
  )
  return (cursor) => (cursor.int() === 0 ? null : read(cursor))
}

function columnsOf(after: AvroField, rows: ReadonlyMap<string, Column[]>): readonly Column[] {
  const row: unknown = (after.type as unknown[])[1]
  const name = typeof row === 'string' ? row.slice(row.lastIndexOf('.') + 1) : asText(asObject(row, 'a row')['name'], 'the name of a row')
  const columns = rows.get(name)
  if (!columns) throw violation('after is not a row that it defines')
  return columns
}

function columnOf(field: AvroField): Column {
  const pg = asObject(field['pg'], 'the "pg" attribute of a column')
  return {
    name: asText(pg['name'], 'the name of a column'),
    type: asText(pg['type'], 'the type of a column'),
    oid: asInteger(pg['oid'], 'the type oid of a column'),
    typmod: asInteger(pg['typmod'], 'the typmod of a column'),
    key: pg['key'] === true,
  }
}

function tableOf(relation: unknown, fingerprint: string, columns: readonly Column[]): Table {
  const object = asObject(relation, 'the relation')
  const identity = IDENTITIES.find((known) => known === object['replicaIdentity'])
  if (identity === undefined) throw violation('its replica identity is unknown')
  return {
    schema: asText(object['schema'], 'the schema of the table'),
    name: asText(object['table'], 'the name of the table'),
    oid: asInteger(object['oid'], 'the oid of the table'),
    replicaIdentity: identity,
    columns,
    fingerprint,
  }
}

function asInteger(value: unknown, what: string): number {
  if (!Number.isSafeInteger(value)) throw violation(`${what} is not an integer`)
  return value as number
}

/**
 * The Avro schema of one relation version: record Change, derived from RELATION and TYPE messages alone, so that the same WAL
 * gives the same schema wherever and whenever it is decoded. docs/protocol.md specifies it.
 */
import { createHash } from 'node:crypto'
import { canBeUnchanged, kindOf, valueKind, type ValueKind } from './column-type.ts'
import type { AvroObject, AvroSchema } from './fingerprint.ts'
import type { ReplicaIdentity } from './pgoutput-message.ts'

/** What makes a relation version: any difference, but for a type's name, gives another schema and another fingerprint. */
export type RelationDescriptor = {
  readonly schema: string
  readonly table: string
  readonly oid: number
  readonly replicaIdentity: ReplicaIdentity
  readonly columns: readonly ColumnDescriptor[]
}
export type ColumnDescriptor = {
  readonly name: string
  /** For people: `int8`, `public.mood`; of a domain that of its base type, as Postgres sends it. */
  readonly type: string
  readonly oid: number
  readonly typmod: number
  readonly key: boolean
}

const UNCHANGED = 'dev.beyond.cdc.Unchanged'

export function schemaOf(relation: RelationDescriptor): AvroObject {
  const { schema, table, oid, replicaIdentity, columns } = relation
  const names = fieldNames(columns.map((column) => column.name))
  const unchanged = unchangedSchema()
  const fields = (selected: (column: ColumnDescriptor) => boolean, last: () => readonly AvroSchema[]) =>
    columns.flatMap((column, index) => {
      return selected(column) ? [{ name: names[index], type: union(kindOf(column.oid), last), pg: column }] : []
    })
  const key = (): AvroSchema => ({ type: 'record', name: 'Key', fields: fields((column) => column.key, () => []) })
  const row = (): AvroSchema => ({ type: 'record', name: 'Row', fields: fields(() => true, () => [unchanged()]) })
  const full = replicaIdentity === 'full'
  return {
    type: 'record',
    name: 'Change',
    namespace: `pg.${avroName(schema)}.${avroName(table)}.r${digestOf(relation)}`,
    relation: { schema, table, oid, replicaIdentity },
    fields: [
      { name: 'op', type: { type: 'enum', name: 'Operation', symbols: ['insert', 'update', 'delete'] } },
      { name: 'before', type: ['null', full ? row() : key()] },
      { name: 'after', type: ['null', full ? 'Row' : row()] },
    ],
  }
}

/**
 * First 8 bytes of SHA-256 over the JSON of the descriptor, its members in the order of the types above, without the type names:
 * a type is its oid. Postgres does not send RELATION and TYPE again when a type is renamed, only at some later occasion or to the
 * next session, so that a name would make the bytes depend on when the slot was last connected to.
 */
function digestOf({ schema, table, oid, replicaIdentity, columns }: RelationDescriptor): string {
  const ofColumns = columns.map(({ name, oid: typeOid, typmod, key }) => ({ name, oid: typeOid, typmod, key }))
  const ordered = { schema, table, oid, replicaIdentity, columns: ofColumns }
  return createHash('sha256').update(JSON.stringify(ordered)).digest('hex').slice(0, 16)
}

/** Avro defines a name where it first stands; later it is only named. */
function unchangedSchema(): () => AvroSchema {
  let defined = false
  return () => {
    if (defined) return UNCHANGED
    defined = true
    return { type: 'record', name: 'Unchanged', namespace: 'dev.beyond.cdc', fields: [] }
  }
}

/** The branches must be in the order that tuple-transcoder.ts counts on: null 0, value 1, exact text 2, else unchanged 2. */
function union(kind: ValueKind, last: () => readonly AvroSchema[]): AvroSchema {
  const branches: AvroSchema[] = ['null', valueSchema(kind)]
  if (hasTextBranch(kind)) branches.push('string')
  if (canBeUnchanged(kind)) branches.push(...last())
  return branches
}

const hasTextBranch = (kind: ValueKind): boolean =>
  kind === valueKind.date || kind === valueKind.timestamp || kind === valueKind.timestamptz

function valueSchema(kind: ValueKind): AvroSchema {
  switch (kind) {
    case valueKind.boolean:
      return 'boolean'
    case valueKind.int:
      return 'int'
    case valueKind.long:
      return 'long'
    case valueKind.float:
      return 'float'
    case valueKind.double:
      return 'double'
    case valueKind.bytes:
      return 'bytes'
    case valueKind.uuid:
      return { type: 'string', logicalType: 'uuid' }
    case valueKind.date:
      return { type: 'int', logicalType: 'date' }
    case valueKind.timestamp:
      return { type: 'long', logicalType: 'local-timestamp-micros' }
    case valueKind.timestamptz:
      return { type: 'long', logicalType: 'timestamp-micros' }
    case valueKind.text:
    case valueKind.skipped:
      return 'string'
  }
}

const AVRO_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/

/** The nearest name that Avro allows. */
export function avroName(name: string): string {
  const plain = name.replace(/[^A-Za-z0-9_]/gu, '_')
  return AVRO_NAME.test(plain) ? plain : `_${plain}`
}

/** One field name per column: its own where Avro allows that, else a similar one that no other column has. */
export function fieldNames(columns: readonly string[]): string[] {
  const taken = new Set(columns.filter((name) => AVRO_NAME.test(name)))
  return columns.map((name) => {
    if (AVRO_NAME.test(name)) return name
    const base = avroName(name)
    let unique = base
    for (let n = 2; taken.has(unique); n++) unique = `${base}_${n}`
    taken.add(unique)
    return unique
  })
}

/**
 * Relation versions as the RELATION and TYPE messages of one session tell them, and all that the hot path needs to know of each.
 */
import { builtInTypeName, kindOf, valueKind } from './column-type.ts'
import { fingerprintOf } from './fingerprint.ts'
import type { Relation, Type } from './pgoutput-message.ts'
import { schemaOf, type RelationDescriptor } from './relation-schema.ts'

/** A version of a relation: between two transactions the same oid may mean other columns. */
export class RelationVersion {
  readonly descriptor: RelationDescriptor
  /** JSON of the Avro schema of its changes. */
  readonly schema: string
  readonly fingerprint: bigint
  /** C3 01 and the fingerprint: how the body of each Change frame begins. */
  readonly singleObjectHeader: Buffer
  readonly full: boolean
  /** ValueKind of each column in a row, and in a key, where `skipped` stands for the columns outside of it. */
  readonly rowKinds: Uint8Array
  readonly keyKinds: Uint8Array
  /** Number of the last batch that holds a change of this version. */
  usedInBatch = -1

  constructor(descriptor: RelationDescriptor) {
    this.descriptor = descriptor
    const schema = schemaOf(descriptor)
    this.schema = JSON.stringify(schema)
    this.fingerprint = fingerprintOf(schema)
    this.singleObjectHeader = Buffer.from([0xc3, 0x01, 0, 0, 0, 0, 0, 0, 0, 0])
    this.singleObjectHeader.writeBigUInt64LE(this.fingerprint, 2)
    this.full = descriptor.replicaIdentity === 'full'
    this.rowKinds = Uint8Array.from(descriptor.columns, (column) => kindOf(column.oid))
    this.keyKinds = Uint8Array.from(descriptor.columns, (column) => (column.key ? kindOf(column.oid) : valueKind.skipped))
  }
}

/**
 * The current version of each relation of a session. It grows with the number of relations, as the protocol demands: Postgres
 * sends each once and does not say when one is gone.
 */
export class RelationCache {
  readonly #typeNames = new Map<number, string>()
  /** By oid as a signed number, which V8 stores without allocating. */
  readonly #versions = new Map<number, RelationVersion>()

  onType(type: Type): void {
    this.#typeNames.set(type.oid, type.schema === 'pg_catalog' ? type.name : `${type.schema}.${type.name}`)
  }

  /** Answers the version if it is another than before. */
  onRelation(relation: Relation): RelationVersion | undefined {
    const version = new RelationVersion({
      schema: relation.schema,
      table: relation.table,
      oid: relation.oid,
      replicaIdentity: relation.replicaIdentity,
      columns: relation.columns.map(({ name, typeOid: oid, typmod, key }) => ({ name, type: this.#typeName(oid), oid, typmod, key })),
    })
    const known = this.#versions.get(relation.oid | 0)
    if (known?.fingerprint === version.fingerprint) return undefined
    this.#versions.set(relation.oid | 0, version)
    return version
  }

  /** `oid` as a signed 32-bit number. */
  get(oid: number): RelationVersion | undefined {
    return this.#versions.get(oid)
  }

  #typeName(oid: number): string {
    return builtInTypeName(oid) ?? this.#typeNames.get(oid) ?? `oid:${oid}`
  }
}

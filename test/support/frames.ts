/**
 * Frames of a server, built by hand: from the envelopes and, for changes, with avsc, so that nothing of the encoder
 * or of the client takes part in what they are tested against.
 */
import { createHash } from 'node:crypto'
import avro from 'avsc'
import { fingerprintOf } from '../../src/decode/fingerprint.ts'
import { schemaOf, type RelationDescriptor } from '../../src/decode/relation-schema.ts'
import { bigintLong, envelopes, type Position } from '../../src/transport/envelopes.ts'
import { encodeFrame, frameType } from '../../src/transport/frame.ts'
import { toLsn, type Lsn } from '../../src/wal/lsn.ts'

/** Postgres type name to its oid, for the tests. */
export const oids = {
  bool: 16,
  bytea: 17,
  int8: 20,
  int2: 21,
  int4: 23,
  text: 25,
  oid: 26,
  float4: 700,
  float8: 701,
  date: 1082,
  timestamp: 1114,
  timestamptz: 1184,
  numeric: 1700,
  uuid: 2950,
  jsonb: 3802,
} as const
export type TypeName = keyof typeof oids

export type TestColumn = { readonly name: string; readonly type: TypeName; readonly key?: boolean }

/** Stands for unchanged TOAST in rows given to `TestRelation`. */
export const UNCHANGED = Symbol('unchanged in a test row')
export type TestRow = Readonly<Record<string, unknown>>

type RowSchema = { readonly name: string; readonly fields: readonly { name: string; type: unknown[]; pg: { name: string } }[] }

function isLongSchema(schema: unknown): boolean {
  return schema === 'long' || (typeof schema === 'object' && schema !== null && 'type' in schema && schema.type === 'long')
}

/** One relation version: its schema, and its changes as Avro by avsc. */
export class TestRelation {
  readonly descriptor: RelationDescriptor
  readonly schemaText: string
  readonly fingerprint: Buffer
  readonly type: avro.Type
  readonly #schema: { fields: { type: unknown }[] }

  constructor(
    table: string,
    columns: readonly TestColumn[],
    options: { schema?: string; identity?: RelationDescriptor['replicaIdentity']; oid?: number } = {},
  ) {
    const identity = options.identity ?? 'default'
    this.descriptor = {
      schema: options.schema ?? 'public',
      table,
      oid: options.oid ?? 16_384,
      replicaIdentity: identity,
      columns: columns.map(
        ({ name, type, key }) => ({ name, type, oid: oids[type], typmod: -1, key: identity === 'full' || key === true }),
      ),
    }
    const schema = schemaOf(this.descriptor)
    this.#schema = schema as never
    this.schemaText = JSON.stringify(schema)
    this.fingerprint = Buffer.alloc(8)
    this.fingerprint.writeBigUInt64LE(fingerprintOf(schema))
    this.type = avro.Type.forSchema(JSON.parse(this.schemaText) as avro.Schema, {
      wrapUnions: 'always',
      typeHook: (part: unknown) => (isLongSchema(part) ? bigintLong : undefined),
    } as never)
  }

  schemaFrame(): Buffer {
    return encodeFrame(frameType.schema, envelopes.schema.encode({ fingerprint: this.fingerprint, schema: this.schemaText }))
  }

  /** Rows by exact column names. `before` may hold the key alone. */
  change(op: 'insert' | 'update' | 'delete', before: TestRow | null, after: TestRow | null): Buffer {
    const datum = { op, before: this.#row(1, before), after: this.#row(2, after) }
    return encodeFrame(frameType.change, Buffer.concat([Buffer.from([0xc3, 0x01]), this.fingerprint, this.type.toBuffer(datum)]))
  }

  #row(field: 1 | 2, row: TestRow | null): unknown {
    if (row === null) return null
    const branchOf = (index: 1 | 2) => (this.#schema.fields[index].type as unknown[])[1] as RowSchema
    const own = branchOf(field) as RowSchema | 'Row'
    const branch = own === 'Row' ? branchOf(1) : own
    const namespace = (this.#schema as unknown as { namespace: string }).namespace
    const wrapped: Record<string, unknown> = {}
    for (const { name, type, pg } of branch.fields) wrapped[name] = wrap(row[pg.name], type)
    return { [`${namespace}.${branch.name}`]: wrapped }
  }
}

/** A value of a column as avsc wants it: in an object that names its branch. */
function wrap(value: unknown, union: readonly unknown[]): unknown {
  if (value === null) return null
  if (value === UNCHANGED) return { 'dev.beyond.cdc.Unchanged': {} }
  const main = union[1] as string | { type: string }
  const name = typeof main === 'string' ? main : main.type
  if (typeof value === 'string' && name !== 'string') return { string: value }
  return { [name]: value }
}

export const GENESIS: Position = { lsn: toLsn(0n), chain: Buffer.alloc(32, 7) }

/** A history: gives transactions their frames and chain hashes. */
export class TestHistory {
  chain: Uint8Array
  lsn: Lsn
  readonly id: Uint8Array

  constructor(start: Position = GENESIS, id: Uint8Array = Buffer.alloc(16, 1)) {
    this.chain = start.chain
    this.lsn = start.lsn
    this.id = id
  }

  get position(): Position {
    return { lsn: this.lsn, chain: this.chain }
  }

  /** Frames of a transaction and the schemas that it needs, which are not part of the chain. */
  transaction(
    lsn: bigint,
    frames: readonly Buffer[],
    options: { xid?: number; time?: bigint; schemas?: readonly TestRelation[] } = {},
  ): TestTransaction {
    const begin = encodeFrame(
      frameType.begin,
      envelopes.begin.encode({ lsn: toLsn(lsn), time: options.time ?? 1_763_804_400_123_456n, xid: BigInt(options.xid ?? Number(lsn)) }),
    )
    const commit = encodeFrame(
      frameType.commit,
      envelopes.commit.encode({ lsn: toLsn(lsn), endLsn: toLsn(lsn + 48n), changes: BigInt(frames.length), chain: Buffer.alloc(32) }),
    )
    const hash = createHash('sha256').update(this.chain)
    for (const bytes of [begin, ...frames, commit.subarray(0, -32)]) hash.update(bytes)
    this.chain = hash.digest()
    this.lsn = toLsn(lsn)
    commit.set(this.chain, commit.length - 32)
    return { lsn: this.lsn, begin, frames, commit, position: this.position, schemas: options.schemas ?? [] }
  }
}

export type TestTransaction = {
  readonly lsn: Lsn
  readonly begin: Buffer
  readonly frames: readonly Buffer[]
  readonly commit: Buffer
  readonly position: Position
  readonly schemas: readonly TestRelation[]
}

export const transactionBytes = ({ begin, frames, commit, schemas }: TestTransaction): Buffer =>
  Buffer.concat([...schemas.map((relation) => relation.schemaFrame()), begin, ...frames, commit])

export function welcomeFrame(start: Position, options: { head?: Position; heartbeatMs?: number; history?: Uint8Array } = {}): Buffer {
  return encodeFrame(
    frameType.welcome,
    envelopes.welcome.encode({
      version: 1,
      server: 'test/1',
      history: options.history ?? Buffer.alloc(16, 1),
      systemId: '7000000000000000001',
      database: 'app',
      start,
      head: options.head ?? start,
      heartbeatMs: options.heartbeatMs ?? 1_000,
    }),
  )
}

export const progressFrame = (position: Position, walLsn: bigint = position.lsn): Buffer =>
  encodeFrame(frameType.progress, envelopes.progress.encode({ position, walLsn: toLsn(walLsn), time: 1_763_804_400_000_000n }))

export const skipFrame = (changes: number): Buffer => encodeFrame(frameType.skip, envelopes.skip.encode({ changes: BigInt(changes) }))

export const truncateFrame = (tables: readonly string[], options: { cascade?: boolean } = {}): Buffer =>
  encodeFrame(
    frameType.truncate,
    envelopes.truncate.encode(
      { relations: tables.map((table) => ({ schema: 'public', table })), cascade: options.cascade ?? false, restartIdentity: false },
    ),
  )

export const messageFrame = (prefix: string, content: string, lsn = 5n, transactional = true): Buffer =>
  encodeFrame(frameType.message, envelopes.message.encode({ lsn: toLsn(lsn), transactional, prefix, content: Buffer.from(content) }))

export function endFrame(code: string, options: { message?: string; retryAfterMs?: number; shared?: Position } = {}): Buffer {
  const { message = `${code} it is.`, retryAfterMs = null, shared = null } = options
  return encodeFrame(frameType.end, envelopes.end.encode({ code, message, retryAfterMs, shared }))
}

/** The slow way back: frames → plain objects, with avsc reading the changes. The oracle of the encoder's tests. */
import avro from 'avsc'
import type { NewSchema } from '../../src/decode/change-encoder.ts'
import { bigintLong, envelopes } from '../../src/transport/envelopes.ts'
import { FrameReader, frameType, MAX_SERVER_FRAME_BYTES, SINGLE_OBJECT_HEADER_BYTES } from '../../src/transport/frame.ts'

export type DecodedFrame = { readonly kind: string; readonly fingerprint?: bigint; readonly value: unknown }

export class SchemaSet {
  readonly #types = new Map<bigint, avro.Type>()

  add(schemas: readonly NewSchema[]): this {
    for (const { fingerprint, schema } of schemas) this.#types.set(fingerprint, typeOf(JSON.parse(schema)))
    return this
  }

  get(fingerprint: bigint): avro.Type {
    const type = this.#types.get(fingerprint)
    if (!type) throw new Error(`no schema ${fingerprint}`)
    return type
  }
}

/** Unions are wrapped, so that a comparison sees the branch; longs are bigints. */
export function typeOf(schema: unknown): avro.Type {
  const typeHook = (of: unknown) => (of === 'long' || (of as { type?: unknown } | null)?.type === 'long' ? bigintLong : undefined)
  return avro.Type.forSchema(schema as avro.Schema, { typeHook, wrapUnions: 'always', registry: {} } as never)
}

const nameOf = new Map(Object.entries(frameType).map(([name, type]) => [type as number, name as keyof typeof envelopes | 'change']))

export function decodeFrames(bytes: Buffer, schemas: SchemaSet): DecodedFrame[] {
  const decoded: DecodedFrame[] = []
  const reader = new FrameReader(MAX_SERVER_FRAME_BYTES)
  reader.push(bytes, ({ type, body }) => {
    const kind = nameOf.get(type)!
    if (kind !== 'change') {
      decoded.push({ kind, value: plain(envelopes[kind].decode(body)) })
      return
    }
    if (body.readUInt16BE(0) !== 0xc301) throw new Error('a change does not begin with the single-object marker')
    const fingerprint = body.readBigUInt64LE(2)
    decoded.push({ kind, fingerprint, value: plain(schemas.get(fingerprint).fromBuffer(body.subarray(SINGLE_OBJECT_HEADER_BYTES))) })
  })
  if (reader.pendingBytes !== 0) throw new Error(`${reader.pendingBytes} bytes after the last frame`)
  return decoded
}

/** Without avsc's classes, and names of records without their namespace, except that of Unchanged. */
export function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex')
  if (Array.isArray(value)) return value.map(plain)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name.replace(/^pg\..*\./, ''), plain(inner)]))
}

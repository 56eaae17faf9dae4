/**
 * Parsing canonical form of an Avro schema, and its 64-bit Rabin fingerprint (CRC-64-AVRO).
 * Source: https://avro.apache.org/docs/1.12.0/specification/#parsing-canonical-form-for-schemas
 *
 * For schemas that relation-schema.ts makes: names are ASCII, and no integer needs normalising.
 */

export type AvroSchema = string | readonly AvroSchema[] | AvroObject
export type AvroObject = {
  readonly type: AvroSchema
  readonly name?: string
  readonly namespace?: string
  readonly fields?: readonly (AvroObject & { readonly name: string })[]
  readonly symbols?: readonly string[]
  readonly items?: AvroSchema
  readonly values?: AvroSchema
  readonly size?: number
  readonly [attribute: string]: unknown
}

const primitives = new Set(['null', 'boolean', 'int', 'long', 'float', 'double', 'bytes', 'string'])

export function canonicalForm(schema: AvroSchema, namespace = ''): string {
  if (typeof schema === 'string') return JSON.stringify(primitives.has(schema) ? schema : fullName(schema, namespace))
  if (isUnion(schema)) return `[${schema.map((branch) => canonicalForm(branch, namespace)).join(',')}]`
  const { type } = schema
  if (schema.name === undefined && schema.items === undefined && schema.values === undefined) return canonicalForm(type, namespace)
  const parts: string[] = []
  let inner = namespace
  if (schema.name !== undefined) {
    const name = fullName(schema.name, schema.namespace ?? namespace)
    inner = name.slice(0, Math.max(0, name.lastIndexOf('.')))
    parts.push(`"name":${JSON.stringify(name)}`)
  }
  parts.push(`"type":${JSON.stringify(type)}`)
  if (schema.fields) {
    const fields = schema.fields.map((field) => `{"name":${JSON.stringify(field.name)},"type":${canonicalForm(field.type, inner)}}`)
    parts.push(`"fields":[${fields.join(',')}]`)
  }
  if (schema.symbols) parts.push(`"symbols":${JSON.stringify(schema.symbols)}`)
  if (schema.items !== undefined) parts.push(`"items":${canonicalForm(schema.items, inner)}`)
  if (schema.values !== undefined) parts.push(`"values":${canonicalForm(schema.values, inner)}`)
  if (schema.size !== undefined) parts.push(`"size":${schema.size}`)
  return `{${parts.join(',')}}`
}

const isUnion = (schema: AvroSchema): schema is readonly AvroSchema[] => Array.isArray(schema)
const fullName = (name: string, namespace: string): string => (name.includes('.') || namespace === '' ? name : `${namespace}.${name}`)

const EMPTY = 0xc15d213aa4d7a795n
const table = Array.from({ length: 256 }, (_, byte) => {
  let value = BigInt(byte)
  for (let bit = 0; bit < 8; bit++) value = (value >> 1n) ^ (value & 1n ? EMPTY : 0n)
  return value
})

/** CRC-64-AVRO of a text's UTF-8 bytes, unsigned. */
export function crc64(text: string): bigint {
  let value = EMPTY
  for (const byte of Buffer.from(text)) value = (value >> 8n) ^ table[Number((value ^ BigInt(byte)) & 0xffn)]
  return value
}

export const fingerprintOf = (schema: AvroSchema): bigint => crc64(canonicalForm(schema))

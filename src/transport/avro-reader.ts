/**
 * Reads Avro data without building avsc's generic values first: a schema is compiled once into a tree of small readers.
 * Knows every Avro type, so that a server with a richer type mapping stays readable; avsc is the oracle in the tests.
 * Source: https://avro.apache.org/docs/1.12.0/specification/ ("Binary encoding").
 *
 * The bytes and the schemas come from a peer and may be hostile: lengths are checked before they are believed, depth is bounded.
 */
import { BeyondError } from '../errors.ts'
import { formatDate, formatTimestamp } from './postgres-time.ts'

const MAX_DEPTH = 32
const DAY_MICROS = 86_400_000_000

const malformed = (what: string): BeyondError => new BeyondError(
  'PROTOCOL_VIOLATION',
  `The peer sent data that its schema does not allow: ${what}.`,
)
const badSchema = (what: string): BeyondError => new BeyondError(
  'PROTOCOL_VIOLATION',
  `The peer sent a schema that can't be used: ${what}.`,
)

/** A place in bytes. Reading past the end is noticed by `finish` at the latest; nothing outside of the bytes is ever read. */
export class AvroCursor {
  bytes: Buffer = Buffer.alloc(0)
  at = 0
  #steps = 0

  reset(bytes: Buffer, at: number): void {
    this.bytes = bytes
    this.at = at
    this.#steps = 4 * bytes.length + 10_000
  }

  /** Records that take no bytes, nested by name, would keep a reader busy for ever: steps are bounded by the bytes there are. */
  spend(steps: number): void {
    this.#steps -= steps
    if (this.#steps < 0) throw malformed('more values than bytes')
  }

  /** Every byte must have been used, and no more than there are. */
  finish(): void {
    if (this.at !== this.bytes.length) throw malformed(this.at > this.bytes.length ? 'it is too short' : 'bytes are left over')
  }

  boolean(): boolean {
    const byte = this.bytes[this.at++]
    if (byte > 1) throw malformed('a boolean that is neither 0 nor 1')
    return byte === 1
  }

  /** Avro `int`, also the index of a union or enum: at most five bytes. */
  int(): number {
    let byte = this.bytes[this.at++]
    if (byte < 0x80) return (byte >>> 1) ^ -(byte & 1)
    let value = byte & 0x7f
    let shift = 7
    do {
      byte = this.bytes[this.at++]
      if (shift === 28 && byte > 0x0f) throw malformed('an int of more than 32 bits')
      value |= (byte & 0x7f) << shift
      shift += 7
    } while (byte >= 0x80)
    return (value >>> 1) ^ -(value & 1)
  }

  /** Avro `long` where it counts bytes or items: exact in a double, or refused. */
  count(): number {
    const value = this.long()
    if (value < -Number.MAX_SAFE_INTEGER || value > Number.MAX_SAFE_INTEGER) throw malformed('a count beyond all bounds')
    return Number(value)
  }

  /** Avro `long`: a number as long as it is exact, a bigint beyond. */
  long(): number | bigint {
    const { bytes } = this
    let byte = bytes[this.at++]
    if (byte < 0x80) return (byte >>> 1) ^ -(byte & 1)
    let low = byte & 0x7f
    for (let shift = 7; shift < 28; shift += 7) {
      byte = bytes[this.at++]
      low |= (byte & 0x7f) << shift
      if (!(byte >= 0x80)) return (low >>> 1) ^ -(low & 1)
    }
    let high = 0
    for (let shift = 0; shift < 28; shift += 7) {
      byte = bytes[this.at++]
      high |= (byte & 0x7f) << shift
      if (!(byte >= 0x80)) {
        if (high >= 2 ** 25) return fromZigZag((BigInt(high) << 28n) | BigInt(low))
        const half = high * 2 ** 27 + (low >>> 1)
        return low & 1 ? -half - 1 : half
      }
    }
    const ninth = bytes[this.at++]
    const tenth = ninth >= 0x80 ? bytes[this.at++] : 0
    if (tenth > 1) throw malformed('a long of more than 64 bits')
    const top = BigInt((ninth & 0x7f) | (tenth << 7))
    return fromZigZag((top << 56n) | (BigInt(high) << 28n) | BigInt(low))
  }

  bigint(): bigint {
    const value = this.long()
    return typeof value === 'bigint' ? value : BigInt(value)
  }

  float(): number {
    const at = this.#take(4)
    return this.bytes.readFloatLE(at)
  }

  double(): number {
    const at = this.#take(8)
    return this.bytes.readDoubleLE(at)
  }

  string(): string {
    const length = this.count()
    const at = this.#take(length)
    return this.bytes.toString('utf8', at, at + length)
  }

  /** A copy: the bytes below are used again for what arrives next. */
  blob(): Buffer {
    const length = this.count()
    return this.fixed(length)
  }

  fixed(length: number): Buffer {
    const at = this.#take(length)
    return Buffer.from(this.bytes.subarray(at, at + length))
  }

  /** Items of an array or map block. */
  block(): number {
    let items = this.count()
    if (items < 0) {
      items = -items
      this.count()
    }
    this.spend(items)
    return items
  }

  #take(length: number): number {
    const { at } = this
    if (length < 0 || length > this.bytes.length - at) throw malformed('a length beyond its end')
    this.at = at + length
    return at
  }
}

const fromZigZag = (value: bigint): bigint => (value >> 1n) ^ -(value & 1n)

export type AvroReader = (cursor: AvroCursor) => unknown

/** Puts a value under any name, `__proto__` included, as a plain property. */
export function setField(row: Record<string, unknown>, name: string, value: unknown): void {
  if (name === '__proto__') Object.defineProperty(row, name, { value, writable: true, enumerable: true, configurable: true })
  else row[name] = value
}

export type AvroField = { readonly name: string; readonly type: unknown; readonly [attribute: string]: unknown }

/** The JSON object of a schema, or a refusal. */
export function asObject(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw badSchema(`${what} is not an object`)
  return value as Record<string, unknown>
}

export function asText(value: unknown, what: string): string {
  if (typeof value !== 'string') throw badSchema(`${what} is not a string`)
  return value
}

export function asFields(schema: Record<string, unknown>): AvroField[] {
  if (!Array.isArray(schema['fields'])) throw badSchema('a record without fields')
  return schema['fields'].map((field: unknown) => {
    const object = asObject(field, 'a field')
    return { ...object, name: asText(object['name'], 'the name of a field'), type: object['type'] }
  })
}

/** Turns a timestamp into Postgres's text. Rows of one batch share their day mostly, so the last day's text is kept. */
function timestampReader(zone: boolean): AvroReader {
  let day = NaN
  let text = ''
  return (cursor) => {
    const micros = cursor.long()
    if (typeof micros === 'bigint') return formatTimestamp(micros, zone)
    const thisDay = Math.floor(micros / DAY_MICROS)
    if (thisDay !== day) {
      const date = formatDate(thisDay)
      if (date.endsWith('BC')) return formatTimestamp(BigInt(micros), zone)
      day = thisDay
      text = date
    }
    return text + clock(micros - thisDay * DAY_MICROS) + (zone ? '+00' : '')
  }
}

const two = (value: number): string => (value < 10 ? `0${value}` : `${value}`)

/** ` HH:MM:SS[.ffffff]` of microseconds since midnight. */
function clock(micros: number): string {
  const seconds = Math.floor(micros / 1e6)
  let fraction = micros - seconds * 1e6
  const shown = ` ${two((seconds / 3600) | 0)}:${two(((seconds / 60) | 0) % 60)}:${two(seconds % 60)}`
  if (fraction === 0) return shown
  let digits = 6
  while (fraction % 10 === 0) {
    fraction /= 10
    digits--
  }
  return `${shown}.${String(fraction).padStart(digits, '0')}`
}

/**
 * Compiles schemas that may refer to each other by name.
 * `special` names records that stand for a value of their own, by full name.
 */
export class AvroCompiler {
  readonly #named = new Map<string, AvroReader>()
  readonly #special: ReadonlyMap<string, AvroReader>

  constructor(special: ReadonlyMap<string, AvroReader> = new Map()) {
    this.#special = special
  }

  /** Throws PROTOCOL_VIOLATION for what is not a schema. `namespace` is the enclosing one. */
  compile(schema: unknown, namespace = '', depth = 0): AvroReader {
    if (depth > MAX_DEPTH) throw badSchema('it is nested too deeply')
    if (typeof schema === 'string') return this.#byName(schema, namespace)
    if (Array.isArray(schema)) return this.#union(schema, namespace, depth)
    const object = asObject(schema, 'a type')
    const type = object['type']
    switch (type) {
      case 'int':
        return object['logicalType'] === 'date' ? (cursor) => formatDate(cursor.int()) : (cursor) => cursor.int()
      case 'long':
        if (object['logicalType'] === 'timestamp-micros') return timestampReader(true)
        if (object['logicalType'] === 'local-timestamp-micros') return timestampReader(false)
        return (cursor) => cursor.bigint()
      case 'record':
        return this.#define(object, namespace, (name, inner) => this.#special.get(name) ?? this.#record(object, inner, depth))
      case 'enum':
        return this.#define(object, namespace, () => enumReader(object['symbols']))
      case 'fixed':
        return this.#define(object, namespace, () => fixedReader(object['size']))
      case 'array':
        return arrayReader(this.compile(object['items'], namespace, depth + 1))
      case 'map':
        return mapReader(this.compile(object['values'], namespace, depth + 1))
      default:
        return this.compile(type, namespace, depth + 1)
    }
  }

  /** Defines a record that has a reader of its own; what refers to it by name gets that reader too. */
  define(schema: Record<string, unknown>, namespace: string, build: (inner: string) => AvroReader): AvroReader {
    return this.#define(schema, namespace, (_name, inner) => build(inner))
  }

  #byName(name: string, namespace: string): AvroReader {
    switch (name) {
      case 'null':
        return () => null
      case 'boolean':
        return (cursor) => cursor.boolean()
      case 'int':
        return (cursor) => cursor.int()
      case 'long':
        return (cursor) => cursor.bigint()
      case 'float':
        return (cursor) => cursor.float()
      case 'double':
        return (cursor) => cursor.double()
      case 'bytes':
        return (cursor) => cursor.blob()
      case 'string':
        return (cursor) => cursor.string()
      default: {
        const reader = this.#named.get(fullName(name, namespace)) ?? this.#named.get(name)
        if (!reader) throw badSchema(`it names the type ${JSON.stringify(name)}, which it does not define`)
        return reader
      }
    }
  }

  #define(schema: Record<string, unknown>, namespace: string, build: (name: string, inner: string) => AvroReader): AvroReader {
    const own = schema['namespace'] === undefined ? namespace : asText(schema['namespace'], 'a namespace')
    const name = fullName(asText(schema['name'], 'the name of a type'), own)
    if (this.#named.has(name)) throw badSchema(`it defines ${JSON.stringify(name)} twice`)
    const dot = name.lastIndexOf('.')
    const reader = build(name, dot < 0 ? '' : name.slice(0, dot))
    this.#named.set(name, reader)
    return reader
  }

  #union(branches: readonly unknown[], namespace: string, depth: number): AvroReader {
    if (branches.some(Array.isArray)) throw badSchema('a union directly within a union')
    const readers = branches.map((branch) => this.compile(branch, namespace, depth + 1))
    if (branches.length === 2 && branches[0] === 'null') return nullableReader(readers[1])
    return (cursor) => {
      const reader = readers[cursor.int()]
      if (reader === undefined) throw malformed('a union without such a branch')
      return reader(cursor)
    }
  }

  #record(schema: Record<string, unknown>, namespace: string, depth: number): AvroReader {
    const fields = asFields(schema)
    const read = recordReader(
      fields.map((field) => field.name),
      fields.map((field) => this.compile(field.type, namespace, depth + 1)),
    )
    return (cursor) => {
      cursor.spend(fields.length + 1)
      return read(cursor)
    }
  }
}

export function recordReader(names: readonly string[], readers: readonly AvroReader[]): AvroReader {
  if (names.includes('__proto__'))
    return (cursor) => {
      const row: Record<string, unknown> = {}
      for (let i = 0; i < names.length; i++) setField(row, names[i], readers[i](cursor))
      return row
    }
  return (cursor) => {
    const row: Record<string, unknown> = {}
    for (let i = 0; i < names.length; i++) row[names[i]] = readers[i](cursor)
    return row
  }
}

function nullableReader(reader: AvroReader): AvroReader {
  return (cursor) => {
    const branch = cursor.bytes[cursor.at++]
    if (branch === 2) return reader(cursor)
    if (branch === 0) return null
    throw malformed('a union without such a branch')
  }
}

function enumReader(symbols: unknown): AvroReader {
  if (!Array.isArray(symbols)) throw badSchema('an enum without symbols')
  const texts = symbols.map((symbol: unknown) => asText(symbol, 'a symbol'))
  return (cursor) => {
    const text = texts[cursor.int()]
    if (text === undefined) throw malformed('an enum without such a symbol')
    return text
  }
}

function fixedReader(size: unknown): AvroReader {
  if (!Number.isSafeInteger(size) || (size as number) < 0) throw badSchema('a fixed type without a size')
  return (cursor) => cursor.fixed(size as number)
}

function arrayReader(item: AvroReader): AvroReader {
  return (cursor) => {
    const items: unknown[] = []
    for (let left = cursor.block(); left > 0; left = cursor.block()) while (left-- > 0) items.push(item(cursor))
    return items
  }
}

function mapReader(value: AvroReader): AvroReader {
  return (cursor) => {
    const map: Record<string, unknown> = {}
    for (let left = cursor.block(); left > 0; left = cursor.block()) while (left-- > 0) setField(map, cursor.string(), value(cursor))
    return map
  }
}

const fullName = (name: string, namespace: string): string => (name.includes('.') || namespace === '' ? name : `${namespace}.${name}`)

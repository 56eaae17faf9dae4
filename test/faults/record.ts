/**
 * What a subscriber has got, on disk: one JSON line per event, then, with every fsync, a line with the position after
 * them. What follows the last position line was cut by a crash and counts as never received.
 */
import { createHash } from 'node:crypto'
import { createReadStream, openSync, readSync, fstatSync, ftruncateSync, writeSync, fsyncSync, closeSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { unchanged, type ChangeEvent, type Row, type Value } from '../../src/transport/client-events.ts'

export type RecordedValue = string | number | boolean | null | { readonly unchanged: true }
export type RecordedRow = Readonly<Record<string, RecordedValue>>
export type Recorded =
  | { readonly kind: 'begin'; readonly lsn: string; readonly xid: number }
  | { readonly kind: 'insert' | 'update' | 'delete'; readonly index: number; readonly table: string; readonly before: RecordedRow | null; readonly after: RecordedRow | null }
  | { readonly kind: 'truncate'; readonly index: number; readonly tables: readonly string[] }
  | { readonly kind: 'message'; readonly index: number; readonly transactional: boolean; readonly prefix: string; readonly content: string }
  | { readonly kind: 'commit'; readonly lsn: string; readonly changes: number }

const TAIL_BYTES = 64 * 1024
const LONG = 200

/** Long values as their hash, so that records stay small. */
export function recordedValue(value: Value): RecordedValue {
  if (value === unchanged) return { unchanged: true }
  if (typeof value === 'bigint') return String(value)
  if (value instanceof Uint8Array) return recordedValue(Buffer.from(value).toString('hex'))
  if (typeof value === 'string' && value.length > LONG) return `sha1:${createHash('sha1').update(value).digest('hex')}:${value.length}`
  return value as RecordedValue
}

const recordedRow = (row: Row | null): RecordedRow | null =>
  row && Object.fromEntries(Object.entries(row).map(([name, value]) => [name, recordedValue(value)]))

export function recorded(event: ChangeEvent): Recorded | undefined {
  switch (event.kind) {
    case 'begin':
      return { kind: 'begin', lsn: String(event.transaction.lsn), xid: event.transaction.xid }
    case 'insert':
    case 'update':
    case 'delete':
      return { kind: event.kind, index: event.index, table: event.table.name, before: recordedRow(event.before), after: recordedRow(event.after) }
    case 'truncate':
      return { kind: 'truncate', index: event.index, tables: event.tables.map(({ name }) => name) }
    case 'message':
      return { kind: 'message', index: event.index, transactional: event.transactional, prefix: event.prefix, content: Buffer.from(event.content).toString() }
    case 'commit':
      return { kind: 'commit', lsn: String(event.transaction.lsn), changes: event.changes }
    default:
      return undefined
  }
}

/** The writing side. */
export class RecordFile {
  readonly #file: number
  /** Where to go on. */
  readonly position: string | undefined

  constructor(path: string) {
    this.#file = openSync(path, 'a+', 0o600)
    const { size } = fstatSync(this.#file)
    const { position, end } = lastPosition(this.#file, size)
    this.position = position
    ftruncateSync(this.#file, end)
  }

  append(events: readonly ChangeEvent[], position: string): void {
    const lines = events.map(recorded).filter((line) => line !== undefined)
    const text = [...lines.map((line) => JSON.stringify(line)), JSON.stringify({ position })].join('\n')
    const bytes = Buffer.from(`${text}\n`)
    for (let done = 0; done < bytes.length; ) done += writeSync(this.#file, bytes, done)
    fsyncSync(this.#file)
  }

  close(): void {
    closeSync(this.#file)
  }
}

/** The newest position line that is whole, and where the file ends behind it. */
function lastPosition(file: number, size: number): { position: string | undefined; end: number } {
  for (let length = Math.min(size, TAIL_BYTES); length > 0; length = Math.min(size, length * 4)) {
    const tail = Buffer.alloc(length)
    readSync(file, tail, 0, length, size - length)
    for (let end = tail.lastIndexOf(10); end > 0; ) {
      const start = tail.lastIndexOf(10, end - 1) + 1
      if (start > 0 || length === size) {
        const line = tail.toString('utf8', start, end)
        if (line.startsWith('{"position":')) return { position: (JSON.parse(line) as { position: string }).position, end: size - length + end + 1 }
      }
      end = start - 1
    }
    if (length === size) break
  }
  return { position: undefined, end: 0 }
}

/** Everything that counts, in order. */
export async function* readRecord(path: string): AsyncGenerator<Recorded> {
  let group: Recorded[] = []
  for await (const line of createInterface({ input: createReadStream(path), crlfDelay: Infinity })) {
    if (line.startsWith('{"position":')) {
      yield* group
      group = []
    } else if (line.endsWith('}')) group.push(JSON.parse(line) as Recorded)
  }
}

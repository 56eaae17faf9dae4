/** Builds pgoutput messages by name, for tests and benchmarks. */
import type { ReplicaIdentity } from '../../src/decode/pgoutput-message.ts'

export type Value = null | 'unchanged' | { readonly text: string | Buffer }
export type Column = { readonly name: string; readonly typeOid: number; readonly typmod?: number; readonly key?: boolean }

export const text = (value: string | Buffer): Value => ({ text: value })

const u8 = (value: number): Buffer => Buffer.from([value])
const u16 = (value: number): Buffer => {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16BE(value)
  return bytes
}
const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value >>> 0)
  return bytes
}
const i64 = (value: bigint): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigInt64BE(value)
  return bytes
}
const zeroEnded = (value: string): Buffer => Buffer.from(`${value}\0`)
const letter = (value: string): Buffer => Buffer.from(value, 'latin1')

export const POSTGRES_EPOCH = 946_684_800_000_000n

/** `time`: microseconds since 1970. */
export const begin = (lsn: bigint, time: bigint, xid: number): Buffer => Buffer.concat([letter('B'), i64(lsn), i64(time - POSTGRES_EPOCH),
  u32(xid)])
export const commit = (lsn: bigint, endLsn: bigint, time: bigint): Buffer =>
  Buffer.concat([letter('C'), u8(0), i64(lsn), i64(endLsn), i64(time - POSTGRES_EPOCH)])
export const origin = (lsn: bigint, name: string): Buffer => Buffer.concat([letter('O'), i64(lsn), zeroEnded(name)])
export const type = (oid: number, schema: string, name: string): Buffer => Buffer.concat([letter('Y'), u32(oid), zeroEnded(schema),
  zeroEnded(name)])

const identityLetter: Readonly<Record<ReplicaIdentity, string>> = { default: 'd', nothing: 'n', full: 'f', index: 'i' }

export const relation = (oid: number, schema: string, table: string, identity: ReplicaIdentity, columns: readonly Column[]): Buffer =>
  Buffer.concat([
    letter('R'), u32(oid), zeroEnded(schema), zeroEnded(table), letter(identityLetter[identity]), u16(columns.length),
    ...columns.flatMap((column) => [u8(column.key ? 1 : 0), zeroEnded(column.name), u32(column.typeOid), u32(column.typmod ?? -1)]),
  ])

const value = (of: Value): Buffer => {
  if (of === null) return letter('n')
  if (of === 'unchanged') return letter('u')
  const bytes = Buffer.from(of.text as string)
  return Buffer.concat([letter('t'), u32(bytes.length), bytes])
}
export const tuple = (values: readonly Value[]): Buffer => Buffer.concat([u16(values.length), ...values.map(value)])

export const insert = (oid: number, after: readonly Value[]): Buffer => Buffer.concat([letter('I'), u32(oid), letter('N'), tuple(after)])
export const update = (oid: number, before: { readonly kind: 'K' | 'O'; readonly values: readonly Value[] } | undefined,
  after: readonly Value[]): Buffer =>
  Buffer.concat([letter('U'), u32(oid), ...(before ? [letter(before.kind), tuple(before.values)] : []), letter('N'), tuple(after)])
export const remove = (oid: number, kind: 'K' | 'O', before: readonly Value[]): Buffer =>
  Buffer.concat([letter('D'), u32(oid), letter(kind), tuple(before)])
export const truncate = (oids: readonly number[], cascade: boolean, restartIdentity: boolean): Buffer =>
  Buffer.concat([letter('T'), u32(oids.length), u8((cascade ? 1 : 0) | (restartIdentity ? 2 : 0)), ...oids.map(u32)])
export const message = (lsn: bigint, transactional: boolean, prefix: string, content: Buffer): Buffer =>
  Buffer.concat([letter('M'), u8(transactional ? 1 : 0), i64(lsn), zeroEnded(prefix), u32(content.length), content])

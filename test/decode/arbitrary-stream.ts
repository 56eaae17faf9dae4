/** Random pgoutput streams for properties: relations of all kinds of columns, rows with texts as Postgres writes them. */
import fc from 'fast-check'
import { canBeUnchanged, kindOf, valueKind } from '../../src/decode/column-type.ts'
import type { ReplicaIdentity } from '../../src/decode/pgoutput-message.ts'
import { formatDate, formatTimestamp } from '../../src/transport/postgres-time.ts'
import * as pgoutput from './pgoutput-builder.ts'

const int = (bits: bigint) => fc.bigInt({ min: -(2n ** (bits - 1n)), max: 2n ** (bits - 1n) - 1n })
/** Small and large numbers alike. */
const sized = (bits: bigint) => fc.tuple(int(bits), fc.bigInt({ min: 0n, max: bits - 1n })).map(([value, shift]) => String(value >> shift))
const micros = fc.oneof(fc.bigInt({ min: -210_866_803_200_000_000n, max: 9_224_318_015_999_999_999n }), fc.bigInt({ min: 0n,
  max: 4_000_000_000_000_000n }))
const timestamp = (zone: boolean) => fc.oneof({ weight: 9, arbitrary: micros.map((value) => formatTimestamp(value, zone)) },
  fc.constantFrom('infinity', '-infinity'))
const floatText = (value: number): string => (Object.is(value, -0) ? '-0' : String(value))
const anyText = fc.oneof(fc.string({ unit: 'binary', maxLength: 40 }), fc.string({ unit: 'grapheme', minLength: 60, maxLength: 200 }))

function textOf(typeOid: number): fc.Arbitrary<string> {
  switch (kindOf(typeOid)) {
    case valueKind.boolean:
      return fc.constantFrom('t', 'f')
    case valueKind.int:
      return typeOid === 21 ? sized(16n) : sized(32n)
    case valueKind.long:
      return typeOid === 26 ? fc.integer({ min: 0, max: 0xffffffff }).map(String) : sized(64n)
    case valueKind.float:
      return fc.float().map(floatText)
    case valueKind.double:
      return fc.oneof(fc.double(), fc.integer({ min: -1e9, max: 1e9 }).map((value) => value / 1000)).map(floatText)
    case valueKind.bytes:
      return fc.uint8Array({ maxLength: 80 }).map((bytes) => `\\x${Buffer.from(bytes).toString('hex')}`)
    case valueKind.uuid:
      return fc.uuid()
    case valueKind.date:
      return fc.oneof({ weight: 9, arbitrary: fc.integer({ min: -2_440_588, max: 2_145_042_905 }).map(formatDate) },
        fc.constantFrom('infinity', '-infinity'))
    case valueKind.timestamp:
      return timestamp(false)
    case valueKind.timestamptz:
      return timestamp(true)
    default:
      return anyText
  }
}

const typeOids = [16, 17, 20, 21, 23, 25, 26, 114, 700, 701, 1043, 1082, 1114, 1184, 1700, 2950, 3802, 16_999]

type Table = { readonly oid: number; readonly identity: ReplicaIdentity; readonly columns: readonly pgoutput.Column[] }

const table = (oid: number): fc.Arbitrary<Table> =>
  fc.record({
    oid: fc.constant(oid),
    identity: fc.constantFrom<ReplicaIdentity>('default', 'nothing', 'full', 'index'),
    columns: fc
      .uniqueArray(fc.record({ name: fc.string({ unit: 'grapheme', maxLength: 6 }).map((name) => name.replaceAll('\0', '0')),
        typeOid: fc.constantFrom(...typeOids), key: fc.boolean() }), { selector: ({ name }) => name, maxLength: 12 }),
  })

function row(of: Table, unchanged: boolean): fc.Arbitrary<pgoutput.Value[]> {
  return fc.tuple(
    ...of.columns.map(({ typeOid }) =>
      fc.oneof(
        { weight: 6, arbitrary: textOf(typeOid).map((text): pgoutput.Value => pgoutput.text(text)) },
        fc.constant<pgoutput.Value>(null),
        ...(unchanged && canBeUnchanged(kindOf(typeOid)) ? [fc.constant<pgoutput.Value>('unchanged')] : []),
      ),
    ),
  ) as fc.Arbitrary<pgoutput.Value[]>
}

const keyOf = (of: Table, values: readonly pgoutput.Value[]): pgoutput.Value[] => values.map((value, i) => (of.columns[i]!.key ? value
  : null))

function change(of: Table): fc.Arbitrary<Buffer> {
  const kind = of.identity === 'full' ? 'O' : 'K'
  const old = row(of, false).map((values) => (kind === 'O' ? values : keyOf(of, values)))
  return fc.oneof(
    row(of, false).map((values) => pgoutput.insert(of.oid, values)),
    fc.tuple(fc.option(old), row(of, true)).map(([before, after]) => pgoutput.update(of.oid, before ? { kind, values: before }
      : undefined, after)),
    old.map((values) => pgoutput.remove(of.oid, kind, values)),
  )
}

/** Messages of whole transactions, with a RELATION anywhere before its first use and again at random. */
export const stream: fc.Arbitrary<Buffer[]> = fc.tuple(table(1), table(3_000_000_000)).chain((tables) => {
  const relations = tables.map((of, i) => pgoutput.relation(of.oid, 'public', `t ${i}`, of.identity, of.columns))
  const content = fc.uint8Array({ maxLength: 100 }).map((bytes) => Buffer.from(bytes))
  const body = fc.array(
    fc.oneof(
      { weight: 12, arbitrary: fc.oneof(...tables.map(change)) },
      fc.constantFrom(...relations),
      fc.tuple(fc.boolean(), fc.boolean()).map(([cascade, restart]) => pgoutput.truncate([1, 3_000_000_000], cascade, restart)),
      content.map((bytes) => pgoutput.message(77n, true, 'prefix', bytes)),
      fc.constant(pgoutput.origin(5n, 'origin')),
    ),
    { maxLength: 12 },
  )
  const transactions = fc.array(fc.oneof({ weight: 5, arbitrary: body }, content), { maxLength: 6 }).map((bodies) =>
    bodies.flatMap((inner, i) => {
      const lsn = 0x12_3456_7890n + BigInt(i) * 0x1000n
      if (!Array.isArray(inner)) return [pgoutput.message(lsn, false, 'alone', inner)]
      return [pgoutput.begin(lsn, 1_772_600_000_000_000n + BigInt(i), 700 + i), ...inner, pgoutput.commit(lsn, lsn + 0x30n,
        1_772_600_000_000_000n + BigInt(i))]
    }),
  )
  return transactions.map((messages) => [...relations, ...messages])
})

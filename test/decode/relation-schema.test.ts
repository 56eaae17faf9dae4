import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { fingerprintOf } from '../../src/decode/fingerprint.ts'
import { RelationCache } from '../../src/decode/relation.ts'
import { avroName, fieldNames, schemaOf, type RelationDescriptor } from '../../src/decode/relation-schema.ts'
import { decodeMessage, type Relation, type Type } from '../../src/decode/pgoutput-message.ts'
import * as pgoutput from './pgoutput-builder.ts'
import { typeOf } from './decoded-batch.ts'

const base: RelationDescriptor = {
  schema: 'public', table: 'accounts', oid: 16_400, replicaIdentity: 'default',
  columns: [
    { name: 'id', type: 'int8', oid: 20, typmod: -1, key: true },
    { name: 'owner name', type: 'text', oid: 25, typmod: -1, key: false },
    { name: 'born', type: 'date', oid: 1082, typmod: -1, key: false },
  ],
}

test('the schema of a relation, in full', () => {
  const descriptor = {
    schema: 'public', table: 'accounts', oid: 16_400, replicaIdentity: 'default',
    columns: [
      { name: 'id', oid: 20, typmod: -1, key: true }, { name: 'owner name', oid: 25, typmod: -1, key: false },
      { name: 'born', oid: 1082, typmod: -1, key: false },
    ],
  }
  const digest = createHash('sha256').update(JSON.stringify(descriptor)).digest('hex').slice(0, 16)
  const id = { name: 'id', type: ['null', 'long'], pg: { name: 'id', type: 'int8', oid: 20, typmod: -1, key: true } }
  const unchanged = { type: 'record', name: 'Unchanged', namespace: 'dev.beyond.cdc', fields: [] }
  assert.deepEqual(schemaOf(base), {
    type: 'record', name: 'Change', namespace: `pg.public.accounts.r${digest}`,
    relation: { schema: 'public', table: 'accounts', oid: 16_400, replicaIdentity: 'default' },
    fields: [
      { name: 'op', type: { type: 'enum', name: 'Operation', symbols: ['insert', 'update', 'delete'] } },
      { name: 'before', type: ['null', { type: 'record', name: 'Key', fields: [id] }] },
      {
        name: 'after',
        type: ['null', {
          type: 'record', name: 'Row',
          fields: [
            id,
            { name: 'owner_name', type: ['null', 'string', unchanged], pg: { name: 'owner name', type: 'text', oid: 25, typmod: -1,
              key: false } },
            {
              name: 'born', type: ['null', { type: 'int', logicalType: 'date' }, 'string'],
              pg: { name: 'born', type: 'date', oid: 1082, typmod: -1, key: false },
            },
          ],
        }],
      },
    ],
  })
})

test('any difference but a type name gives another fingerprint', () => {
  const columns = base.columns
  const variants: RelationDescriptor[] = [
    base, { ...base, schema: 'Public' }, { ...base, table: 'accounts ' }, { ...base, oid: 1 }, { ...base, replicaIdentity: 'index' },
    { ...base, replicaIdentity: 'full' }, { ...base, columns: columns.slice(1) }, { ...base, columns: columns.toReversed() },
    { ...base, columns: columns.with(0, { ...columns[0]!, typmod: 4 }) }, { ...base, columns: columns.with(0, { ...columns[0]!,
      name: 'Id' }) },
    { ...base, columns: columns.with(1, { ...columns[1]!, oid: 1043 }) }, { ...base, columns: columns.with(1, { ...columns[1]!,
      name: 'owner.name' }) },
    { ...base, columns: columns.with(1, { ...columns[1]!, key: true }) },
  ]
  assert.equal(new Set(variants.map((relation) => fingerprintOf(schemaOf(relation)))).size, variants.length)
  const renamed = { ...base, columns: columns.with(1, { ...columns[1]!, type: 'public.other' }) }
  assert.equal(fingerprintOf(schemaOf(renamed)), fingerprintOf(schemaOf(base)))
})

test('field names are valid, unique, and the own name where that is valid', () => {
  assert.deepEqual(fieldNames(['a b', 'a_b', 'a.b', 'a_b_2', '1', '', 'ü', '_']), ['a_b_3', 'a_b', 'a_b_4', 'a_b_2', '_1', '__2', '__3',
    '_'])
  fc.assert(
    fc.property(fc.uniqueArray(fc.string({ unit: fc.constantFrom('a', '_', '2', '.', 'é', '😀'), maxLength: 5 }), { maxLength: 30 }),
      (columns) => {
      const names = fieldNames(columns)
      assert.equal(new Set(names).size, columns.length)
      for (const [i, name] of names.entries()) {
        assert.match(name, /^[A-Za-z_][A-Za-z0-9_]*$/)
        if (/^[A-Za-z_][A-Za-z0-9_]*$/.test(columns[i]!)) assert.equal(name, columns[i])
      }
    }),
  )
})

test('names of schemas and tables become valid namespaces', () => {
  assert.equal(avroName('plain_1'), 'plain_1')
  assert.equal(avroName('odd "schema".x'), 'odd__schema__x')
  assert.equal(avroName('9lives'), '_9lives')
  assert.equal(avroName('😀'), '_')
})

test('types are named by their oid, by TYPE messages, or not at all', () => {
  const cache = new RelationCache()
  const relation = (table: string, typeOid: number) => decodeMessage(pgoutput.relation(7, 'public', table, 'default', [{ name: 'c',
    typeOid }])) as Relation
  const typeOfColumn = (table: string, typeOid: number) => cache.onRelation(relation(table, typeOid))?.descriptor.columns[0]!.type
  cache.onType(decodeMessage(pgoutput.type(16_500, 'app', 'mood')) as Type)
  cache.onType(decodeMessage(pgoutput.type(16_501, '', 'int4')) as Type)
  assert.equal(typeOfColumn('a', 1009), '_text')
  assert.equal(typeOfColumn('b', 16_500), 'app.mood')
  assert.equal(typeOfColumn('c', 16_501), 'int4')
  assert.equal(typeOfColumn('d', 16_502), 'oid:16502')
  assert.equal(typeOfColumn('d', 16_502), undefined, 'the same again is no new version')
  cache.onType(decodeMessage(pgoutput.type(16_502, 'app', 'renamed')) as Type)
  assert.equal(typeOfColumn('d', 16_502), undefined, 'nor is one whose type has another name')
  assert.equal(cache.get(7)!.descriptor.table, 'd')
})

test('avsc takes a relation with 1,600 columns and one without any', () => {
  const columns = Array.from({ length: 1600 }, (_, i) => ({ name: `c${i}`, type: 'int4', oid: 23, typmod: -1, key: false }))
  assert.equal(typeOf(schemaOf({ ...base, columns })).name, typeOf(schemaOf({ ...base, columns })).name)
  assert.ok(typeOf(schemaOf({ ...base, columns: [] })))
})

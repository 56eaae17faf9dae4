import assert from 'node:assert/strict'
import { test } from 'node:test'
import avro from 'avsc'
import { canonicalForm, crc64, fingerprintOf } from '../../src/decode/fingerprint.ts'
import { schemaOf, type RelationDescriptor } from '../../src/decode/relation-schema.ts'

test('fingerprints of the primitive types are those that the Avro project publishes', () => {
  assert.equal(fingerprintOf('int'), 0x7275d51a3f395c8fn)
  assert.equal(fingerprintOf('float'), 0x4d7c02cb3ea8d790n)
  assert.equal(fingerprintOf('long'), 0xd054e14493f41db7n)
  assert.equal(fingerprintOf('null'), 0x63dd24e7cc258f8an)
  assert.equal(fingerprintOf('string'), 0x8f014872634503c7n)
  assert.equal(crc64(''), 0xc15d213aa4d7a795n)
})

test('the canonical form of a relation is that of avsc', () => {
  const column = (name: string, oid: number, key = false) => ({ name, type: 'x', oid, typmod: -1, key })
  const relation: RelationDescriptor = {
    schema: 'public', table: 'a table', oid: 5, replicaIdentity: 'default',
    columns: [16, 17, 20, 21, 23, 25, 26, 700, 701, 1082, 1114, 1184, 1700, 2950].map((oid, i) => column(`c${i}`, oid, i < 2)),
  }
  for (const replicaIdentity of ['default', 'nothing', 'full', 'index'] as const) {
    const schema = schemaOf({ ...relation, replicaIdentity })
    const oracle = avro.Type.forSchema(structuredClone(schema) as avro.Schema, { wrapUnions: 'always' })
    assert.equal(canonicalForm(schema), JSON.stringify(oracle.schema()))
  }
})

test('what the specification strips and orders', () => {
  assert.equal(canonicalForm({ type: { type: 'int', logicalType: 'date' } }), '"int"')
  assert.equal(
    canonicalForm({ size: 4, doc: 'd', namespace: 'n', name: 'F', type: 'fixed' }),
    '{"name":"n.F","type":"fixed","size":4}',
  )
  assert.equal(canonicalForm({ values: ['null', { type: 'array', items: 'long' }], type: 'map' }),
    '{"type":"map","values":["null",{"type":"array","items":"long"}]}')
})

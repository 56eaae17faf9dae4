import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { BeyondError } from '../../src/errors.ts'
import { AvroCompiler, AvroCursor } from '../../src/transport/avro-reader.ts'
import { unchanged } from '../../src/transport/client-events.ts'
import { compileRelation } from '../../src/transport/client-row.ts'
import { formatDate, formatTimestamp } from '../../src/transport/postgres-time.ts'
import { TestRelation, UNCHANGED, type TestColumn, type TestRow, type TypeName } from '../support/frames.ts'

const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000_000)

const reader = (relation: TestRelation) => compileRelation(relation.fingerprint.toString('hex'), relation.schemaText)
const bodyOf = (frame: Buffer): Buffer => frame.subarray(5)
const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })
const toastable = (type: TypeName): boolean => ['text', 'numeric', 'jsonb', 'bytea'].includes(type)

/** Values as avsc takes them, beside what the client must make of them. */
const values: Record<TypeName, fc.Arbitrary<readonly [wire: unknown, read: unknown]>> = {
  bool: fc.boolean().map((value) => [value, value]),
  int2: fc.integer({ min: -32768, max: 32767 }).map((value) => [value, value]),
  int4: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }).map((value) => [value, value]),
  int8: fc.oneof(int64, fc.bigInt({ min: -300n, max: 300n }), fc.constantFrom(2n ** 53n, -(2n ** 53n) - 1n)).map((value) => [value, value]),
  oid: fc.bigInt({ min: 0n, max: 2n ** 32n - 1n }).map((value) => [value, value]),
  float4: fc.float().map((value) => [value, value]),
  float8: fc.double().map((value) => [value, value]),
  bytea: fc.uint8Array().map((bytes) => [Buffer.from(bytes), Buffer.from(bytes)]),
  uuid: fc.uuid().map((value) => [value, value]),
  text: fc.string({ unit: 'binary' }).map((value) => [value, value]),
  numeric: fc.constantFrom('NaN', '-Infinity', '1.50', '0.00000000000000000001').map((value) => [value, value]),
  jsonb: fc.json().map((value) => [value, value]),
  date: fc.oneof(
    fc.integer({ min: -2_000_000, max: 2_000_000 }).map((days) => [days, formatDate(days)] as const),
    fc.constantFrom(['infinity', 'infinity'] as const, ['5874897-12-31', '5874897-12-31'] as const),
  ),
  timestamp: fc.oneof(
    int64.map((micros) => [micros, formatTimestamp(micros, false)] as const),
    fc.bigInt({ min: -(10n ** 14n), max: 4n * 10n ** 15n }).map((micros) => [micros, formatTimestamp(micros, false)] as const),
    fc.constant(['-infinity', '-infinity'] as const),
  ),
  timestamptz: fc.oneof(
    fc.bigInt({ min: -(10n ** 18n), max: 4n * 10n ** 15n }).map((micros) => [micros, formatTimestamp(micros, true)] as const),
    fc.bigInt({ min: 0n, max: 4n * 10n ** 9n }).map(
      (seconds) => [seconds * 1_000_000n, formatTimestamp(seconds * 1_000_000n, true)] as const,
    ),
  ),
}

const column = fc.record({
  name: fc.oneof(
    fc.constantFrom('constructor', 'id', '1', 'a b', 'Größe'),
    fc.string({ minLength: 1, maxLength: 20 }),
  ).filter((name) => name !== '__proto__'),
  type: fc.constantFrom(...(Object.keys(values) as TypeName[])),
  key: fc.boolean(),
})
const columns = fc.uniqueArray(column, { selector: ({ name }) => name, minLength: 1, maxLength: 12 })

function rowOf(list: readonly TestColumn[], mayBeUnchanged: boolean): fc.Arbitrary<readonly [TestRow, TestRow]> {
  const cells = list.map(({ type }) =>
    fc.oneof(
      { weight: 6, arbitrary: values[type] },
      { weight: 1, arbitrary: fc.constant([null, null] as const) },
      { weight: mayBeUnchanged && toastable(type) ? 1 : 0, arbitrary: fc.constant([UNCHANGED, unchanged] as const) },
    ),
  )
  const put = (
    pairs: readonly (readonly [unknown, unknown])[],
    which: 0 | 1,
  ): TestRow => Object.fromEntries(list.map(({ name }, i) => [name, pairs[i][which]]))
  return fc.tuple(...cells).map((pairs) => [put(pairs, 0), put(pairs, 1)] as const)
}

const scenario = columns.chain((list) =>
  fc.record({
    list: fc.constant(list),
    identity: fc.constantFrom('default' as const, 'full' as const, 'index' as const),
    after: rowOf(list, true),
    before: rowOf(list, false),
  }),
)

/** What the key of a row is, and in which order. */
const keyOf = (row: TestRow, list: readonly TestColumn[]): TestRow => Object.fromEntries(
  list.filter(({ key }) => key).map(({ name }) => [name, row[name]]),
)
const plain = (row: unknown): unknown => ({ ...(row as object) })

describe(`rows (seed ${seed})`, () => {
  it('come out as they went into avsc, whatever the types and names', () => {
    fc.assert(
      fc.property(scenario, ({ list, identity, after: [sent, expected], before: [sentOld, expectedOld] }) => {
        const relation = new TestRelation('t', list, { identity })
        const { read, table } = reader(relation)
        const old = identity === 'full' ? expectedOld : keyOf(expectedOld, list)
        assert.deepEqual(plain(read(bodyOf(relation.change('insert', null, sent))).after), plain(expected))
        const update = read(bodyOf(relation.change('update', sentOld, sent)))
        assert.deepEqual([update.op, plain(update.before), plain(update.after)], ['update', plain(old), plain(expected)])
        const deletion = read(bodyOf(relation.change('delete', sentOld, null)))
        assert.deepEqual([deletion.op, plain(deletion.before), deletion.after], ['delete', plain(old), null])
        assert.deepEqual(table.columns.map(({ name }) => name), list.map(({ name }) => name))
      }),
      { seed, numRuns: 400 },
    )
  })

  it('have columns of any name, __proto__ too', () => {
    const relation = new TestRelation('t', [{ name: 'a', type: 'int4', key: true }])
    const schema = relation.schemaText.replaceAll('"name":"a"', '"name":"__proto__"')
    const { after } = compileRelation('0', schema).read(bodyOf(relation.change('insert', null, { a: 7 })))
    assert.equal(Object.getPrototypeOf(after), Object.prototype)
    assert.deepEqual(Object.entries(after!), [['__proto__', 7]])
  })

  it('keep no view of the bytes that they came in', () => {
    const relation = new TestRelation('t', [{ name: 'b', type: 'bytea' }])
    const body = Buffer.from(bodyOf(relation.change('insert', null, { b: Buffer.from('kept') })))
    const { after } = reader(relation).read(body)
    body.fill(0)
    assert.equal(String(after!['b']), 'kept')
  })

  it('may have 1,600 columns', () => {
    const list = Array.from({ length: 1600 }, (_, i) => ({ name: `c${i}`, type: 'int4' as const }))
    const relation = new TestRelation('wide', list)
    const { after } = reader(relation).read(
      bodyOf(relation.change('insert', null, Object.fromEntries(list.map(({ name }, i) => [name, i])))),
    )
    assert.equal(after!['c1599'], 1599)
  })

  it('are refused when bytes lack, are left over, or their operation does not fit', () => {
    const relation = new TestRelation('t', [{ name: 'a', type: 'text', key: true }])
    const { read } = reader(relation)
    const body = bodyOf(relation.change('insert', null, { a: 'some text' }))
    for (let length = 10; length < body.length; length++) assert.throws(
      () => read(Buffer.from(body.subarray(0, length))),
      { code: 'PROTOCOL_VIOLATION' },
    )
    assert.throws(() => read(Buffer.concat([body, Buffer.alloc(1)])), { code: 'PROTOCOL_VIOLATION' })
    for (const [op, before, after] of [
      ['insert', { a: 'x' }, { a: 'y' }],
      ['insert', null, null],
      ['update', { a: 'x' }, null],
      ['delete', null, null],
      ['delete', { a: 'x' }, { a: 'x' }],
    ] as const)
      assert.throws(() => read(bodyOf(relation.change(op, before, after))), { code: 'PROTOCOL_VIOLATION' })
  })
})

describe('schemas of a hostile server', () => {
  const relation = new TestRelation('t', [
    { name: 'a', type: 'int4', key: true },
    { name: 'b', type: 'text' },
  ])
  const good = JSON.parse(relation.schemaText) as Record<string, unknown>
  const row = (type: unknown): string => {
    const copy = structuredClone(good) as { fields: { type: { fields: { type: unknown }[] }[] }[] }
    copy.fields[2].type[1].fields[1].type = type
    return JSON.stringify(copy)
  }
  const deep = (levels: number): unknown => (levels === 0 ? 'int' : { type: 'array', items: deep(levels - 1) })
  const cases: Record<string, string> = {
    'no JSON': '{',
    'no object': '[]',
    'no record': '"int"',
    'no relation': JSON.stringify({ ...good, relation: undefined }),
    'an unknown replica identity': JSON.stringify({ ...good, relation: { ...(good['relation'] as object), replicaIdentity: 'some' } }),
    'other fields': JSON.stringify({ ...good, fields: [] }),
    'a type that is not defined': row('pg.nowhere'),
    'a union in a union': row(['null', ['int']]),
    'a nesting that does not end': row(deep(100)),
    'two columns of one name': relation.schemaText.replaceAll('"name":"b","type":"text"', '"name":"a","type":"text"'),
  }
  for (const [name, text] of Object.entries(cases))
    it(`${name} is a violation of the protocol`, () => assert.throws(() => compileRelation('0', text), { code: 'PROTOCOL_VIOLATION' }))

  it('records without bytes, nested by name, do not keep it busy', () => {
    const types = Array.from({ length: 30 }, (_, i) => ({
      type: 'record',
      name: `N${i}`,
      fields: i === 0 ? [] : ['x', 'y'].map((name) => ({ name, type: `N${i - 1}` })),
    }))
    const compiler = new AvroCompiler()
    let read
    for (const type of types) read = compiler.compile(type)
    const cursor = new AvroCursor()
    cursor.reset(Buffer.alloc(0), 0)
    assert.throws(() => read!(cursor), (error: unknown) => error instanceof BeyondError)
  })

  it('arrays of nothing do not fill the memory', () => {
    const read = new AvroCompiler().compile({ type: 'array', items: 'null' })
    const cursor = new AvroCursor()
    cursor.reset(Buffer.from([0x80, 0x80, 0x80, 0x80, 0x40, 0]), 0)
    assert.throws(() => read(cursor), { code: 'PROTOCOL_VIOLATION' })
  })

  it('of a richer type mapping stay readable', () => {
    const compiler = new AvroCompiler()
    const cases: [unknown, number[], unknown][] = [
      [{ type: 'array', items: 'int' }, [4, 2, 4, 0], [1, 2]],
      [{ type: 'array', items: 'int' }, [3, 4, 2, 4, 0], [1, 2]],
      [{ type: 'map', values: 'boolean' }, [2, 2, 0x61, 1, 0], { a: true }],
      [{ type: 'enum', name: 'Mood', symbols: ['sad', 'glad'] }, [2], 'glad'],
      [{ type: 'record', name: 'Pair', fields: [{ name: 'a', type: 'int' }, { name: 'b', type: 'Mood' }] }, [8, 0], { a: 4, b: 'sad' }],
      [['null', 'Pair', 'string'], [2, 8, 2], { a: 4, b: 'glad' }],
      [{ type: 'fixed', name: 'Two', size: 2 }, [1, 2], Buffer.from([1, 2])],
    ]
    for (const [schema, bytes, value] of cases) {
      const cursor = new AvroCursor()
      cursor.reset(Buffer.from(bytes), 0)
      assert.deepEqual(compiler.compile(schema)(cursor), value)
      cursor.finish()
    }
  })
})

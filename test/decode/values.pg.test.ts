/**
 * Postgres as the oracle: values that break decoders go into tables, come out of the slot, and must be what the server itself says of
 * them. The random ones come from a seed, printed with each failure: BEYOND_TEST_SEED sets it.
 */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type pg from 'pg'
import { ChangeEncoder } from '../../src/decode/change-encoder.ts'
import { formatDate, formatTimestamp } from '../../src/transport/postgres-time.ts'
import { peekMessages, quietServer } from '../fixtures/pg18/peek-messages.ts'
import { startPostgres, type TestPostgres } from '../support/postgres.ts'
import { decodeFrames, SchemaSet } from './decoded-batch.ts'

const seed = Number(process.env['BEYOND_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31))
let postgres: TestPostgres
let client: pg.Client
let slots = 0

before(async () => {
  postgres = await startPostgres(quietServer)
  client = await postgres.client()
  await client.query("SET intervalstyle = postgres; SET lc_monetary = 'C'; CREATE EXTENSION hstore; CREATE PUBLICATION everything FOR ALL TABLES")
})
after(async () => {
  await client?.end()
  await postgres?.[Symbol.asyncDispose]()
})

type Row = Readonly<Record<string, unknown>>
type Change = { readonly namespace: string; readonly op: string; readonly before: Row | null; readonly after: Row | null }

/** Runs SQL, and answers the changes that it caused as they come out of frames. */
async function changesOf(run: () => Promise<unknown>): Promise<{ changes: Change[]; schemas: unknown[] }> {
  const slot = `values_${slots++}`
  await client.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [slot])
  await run()
  const encoder = new ChangeEncoder(Buffer.alloc(32))
  for (const { message } of await peekMessages(client, slot, 'everything')) encoder.push(message)
  await client.query('SELECT pg_drop_replication_slot($1)', [slot])
  const schemas = encoder.takeSchemas()
  const names = new Map(schemas.map(({ fingerprint, schema }) => [fingerprint, (JSON.parse(schema) as { namespace: string }).namespace]))
  const batch = encoder.take()
  const frames = batch ? decodeFrames(batch.bytes, new SchemaSet().add(schemas)) : []
  const changes = frames.flatMap(({ kind, fingerprint, value }) => {
    if (kind !== 'change') return []
    const { op, before: old, after: row } = value as { op: string; before: Record<string, Row> | null; after: Record<string, Row> | null }
    return [{ namespace: names.get(fingerprint!)!, op, before: old && Object.values(old)[0]!, after: row && Object.values(row)[0]! }]
  })
  return { changes, schemas: schemas.map(({ schema }) => JSON.parse(schema) as unknown) }
}

const column = (change: Change, name: string): unknown => change.after![name]

/** A value as it came out → the text that Postgres prints, or for floats and bytes what `exactly` asks of it. */
function shown(type: string, value: unknown): string | null {
  if (value === null) return null
  const [branch, inner] = Object.entries(value as object)[0] as [string, never]
  if (branch === 'boolean') return inner ? 't' : 'f'
  if (branch === 'int' && type === 'date') return formatDate(inner)
  if (branch === 'long' && type === 'timestamp') return formatTimestamp(inner, false)
  if (branch === 'long' && type === 'timestamptz') return formatTimestamp(inner, true)
  const bytes = Buffer.alloc(branch === 'float' ? 4 : 8)
  if (branch === 'float') return (bytes.writeFloatBE(inner), bytes.toString('hex'))
  if (branch === 'double') return (bytes.writeDoubleBE(inner), bytes.toString('hex'))
  return String(inner)
}
const exactly: Readonly<Record<string, string>> = { float4: "encode(float4send(v), 'hex')", float8: "encode(float8send(v), 'hex')",
  bytea: "encode(v, 'hex')" }
const branches: Readonly<Record<string, string>> = {
  bool: 'boolean', int2: 'int', int4: 'int', int8: 'long', oid: 'long', float4: 'float', float8: 'double', bytea: 'bytes', uuid: 'string',
  date: 'int', timestamp: 'long', timestamptz: 'long',
}

/** Puts expressions into a column of the type, and compares what comes out with what Postgres says of it. */
async function compare(type: string, expressions: readonly string[], options: { text?: readonly string[] } = {}): Promise<void> {
  const base = type.replace(/\(.*/, '')
  await client.query(`CREATE TABLE subject (id serial PRIMARY KEY, v ${type})`)
  const { changes } = await changesOf(async () => {
    for (let at = 0; at < expressions.length; at += 1000)
      await client.query(`INSERT INTO subject (v) VALUES ${expressions.slice(at, at + 1000).map((of) => `(${of})`).join(', ')}`)
  })
  const { rows } = await client.query<{ id: number; v: string | null }>(`SELECT id, CASE WHEN v IS DISTINCT FROM NULL THEN ${exactly[type] ?? "format('%s', v)"} END AS v FROM subject ORDER BY id`)
  await client.query('DROP TABLE subject')
  assert.equal(changes.length, expressions.length)
  for (const [i, { v }] of rows.entries()) {
    const value = column(changes[i]!, 'v')
    assert.equal(shown(base, value), v, `${type} ${expressions[i]!.slice(0, 100)}, seed ${seed}`)
    if (value !== null) {
      const expected = options.text?.includes(expressions[i]!) ? 'string' : (branches[base] ?? 'string')
      assert.deepEqual(Object.keys(value as object), [expected], `${type} ${expressions[i]!.slice(0, 100)}`)
    }
  }
}

const quoted = (...texts: string[]): string[] => texts.map((text) => `'${text.replaceAll("'", "''")}'`)

test('numbers', async () => {
  await compare('bool', ['true', 'false', 'null'])
  await compare('int2', ['32767', '-32768', '0', 'null'])
  await compare('int4', ['2147483647', '-2147483648', '0', '-1', '9', '10'])
  await compare('int8', ['9223372036854775807', '-9223372036854775808', '0', '-1', '9007199254740993', '-9007199254740993',
    '999999999999999', '1000000000000000', '4503599627370496', '-4503599627370497'])
  await compare('oid', ['0', '4294967295', '2147483648'])
  await compare('xid8', quoted('18446744073709551615'))
  await compare('money', quoted('-1.50', '92233720368547758.07', '-92233720368547758.08'))
})

test('numeric keeps every digit', async () => {
  await compare('numeric', [
    "'NaN'", "'Infinity'", "'-Infinity'", '1.10', '0.000', '-0.0', "('1' || repeat('0', 131071))::numeric", "repeat('9', 131072)::numeric",
    "('0.' || repeat('1', 16383))::numeric", "(repeat('7', 131072) || '.' || repeat('3', 16383))::numeric", '1e-16383',
  ])
  await compare('numeric(10,-2)', ['12345', '50'])
})

test('floats, bit by bit', async () => {
  await compare('float8', quoted('-0', '0', 'NaN', 'Infinity', '-Infinity', '5e-324', '-2.2250738585072011e-308',
    '1.7976931348623157e308', '0.1', '9007199254740993', '1e15', '1e16', '123456789.125'))
  await compare('float4', quoted('-0', 'NaN', 'Infinity', '1e-45', '1.1754942e-38', '3.4028235e38', '0.1', '16777216', '16777217',
    '33554432', '8388608.5', '2097152.2'))
})

test('bytes and text', async () => {
  await compare('bytea', ["''", "'\\x00ff'", "decode(repeat('00ff10', 349525), 'hex')", 'null'])
  await compare('text', ["''", "repeat('ü€😀', 100000)", "E'\\t\\n\\\\'", "'null'", "'NULL'"])
  await compare('varchar(5)', quoted('a', 'äöüß€'))
  await compare('char(5)', quoted('a', ''))
  await compare('"char"', quoted('x', ''))
  await compare('name', ["repeat('n', 63)::name"])
  await compare('uuid', quoted('00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff',
    'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'))
  await compare('json', quoted('{"a": 12345678901234567890, "a": 1.10,  "b": "\\u00e9\\n"}', 'null', '[]'))
  await compare('jsonb', quoted('{"a": 123456789012345678901234567890.10, "b": "\\"x\\\\"}', 'null'))
  await compare('xml', quoted('<a>ü</a>'))
  await compare('bit(64)', ["repeat('10', 32)::bit(64)"])
  await compare('varbit', ["B''", "B'1'", "repeat('01', 500)::varbit"])
})

test('dates and times, to the ends of their ranges', async () => {
  const infinite = quoted('infinity', '-infinity')
  await compare('date', [...quoted('2026-01-02', '1969-12-31', '0001-01-01', '0001-12-31 BC', '4714-11-24 BC', '9999-12-31',
    '10000-01-01', '5874897-12-31', '2000-02-29', '1900-02-28'), ...infinite], { text: infinite })
  const beyond = quoted('294276-12-31 23:59:59.999999', '294247-01-10 04:00:54.775808')
  const common = quoted('2026-01-02 03:04:05', '2026-01-02 03:04:05.000001', '2026-01-02 03:04:05.1', '1969-12-31 23:59:59.999999',
    '1970-01-01 00:00:00', '0001-01-01 00:00:00', '0044-03-15 12:00:00.5 BC', '4714-11-24 00:00:00 BC', '9999-12-31 23:59:59.999999',
    '12345-06-07 08:09:10', '294247-01-10 04:00:54.775807', '2112-09-17 23:53:47.370496', '2112-09-17 23:53:47.370495',
    '2026-12-31 24:00:00')
  await compare('timestamp', [...common, ...beyond, ...infinite], { text: [...beyond, ...infinite] })
  await compare('timestamptz', [...common, ...beyond, ...infinite], { text: [...beyond, ...infinite] })
  await compare('timestamptz(0)', quoted('2026-01-02 03:04:05.9+05:30'))
  await compare('time', quoted('24:00:00', '00:00:00.000001'))
  await compare('timetz', quoted('12:34:56.7+15:59:59', '24:00:00-00:00:01'))
  await compare('interval', quoted('1 year -2 months +3 days -04:05:06.789', '-178000000 years', 'infinity', '00:00:00'))
})

test('a timestamp is the number of microseconds that Postgres counts', async () => {
  await client.query('CREATE TABLE subject (id serial PRIMARY KEY, v timestamptz)')
  const { changes } = await changesOf(() =>
    client.query("INSERT INTO subject (v) VALUES ('2026-01-02 03:04:05.678901+00'), ('0044-03-15 12:00:00.5+00 BC'), ('12345-06-07 08:09:10+00'), ('1969-12-31 23:59:59.999999+00')"),
  )
  const { rows } = await client.query<{ micros: string }>('SELECT trunc(extract(epoch FROM v) * 1000000)::text AS micros FROM subject ORDER BY id')
  assert.deepEqual(changes.map((change) => (column(change, 'v') as { long: bigint }).long), rows.map(({ micros }) => BigInt(micros)))
  await client.query('DROP TABLE subject')
})

test('everything else is the exact text', async () => {
  await client.query("CREATE TYPE pair AS (a text, b int4); CREATE DOMAIN words AS text[]; CREATE DOMAIN few AS words CHECK (cardinality(VALUE) < 4); CREATE DOMAIN cents AS int4")
  await compare('inet', quoted('::1', '2001:db8::/32', '192.168.0.1/24', '10.0.0.1'))
  await compare('cidr', quoted('2001:db8::/32', '10.0.0.0/8'))
  await compare('macaddr8', quoted('08:00:2b:01:02:03:04:05'))
  await compare('int4range', quoted('empty', '(,)', '[1,)', '[1,5]'))
  await compare('tstzrange', quoted('[2026-01-01,infinity)', '(,"2026-01-01 00:00:00+00"]'))
  await compare('nummultirange', quoted('{}', '{[1.10,2),(3,)}'))
  await compare('int4[]', quoted('{}', '{1,NULL,3}', '[0:1]={1,2}', '{{{1},{2}},{{3},{4}}}'))
  await compare('text[]', quoted('{NULL,"NULL","","a,b","q\\"uote","back\\\\slash"}'))
  await compare('pair', ["ROW('say \"hi\", (you)', NULL)", "ROW('', 1)", 'null'])
  await compare('pair[]', ["ARRAY[ROW('a,b', 1)::pair, NULL]"])
  await compare('few', ["ARRAY['a', NULL, '']"])
  await compare('cents', ['-5'])
  await compare('hstore', quoted('"a"=>NULL, "b"=>"NULL", "c d"=>"=>"'))
  await compare('tsvector', quoted("'a':1A 'b c':2,3"))
  await compare('point', quoted('(1.5,-0)'))
  await compare('pg_lsn', quoted('FFFFFFFF/FFFFFFFF'))
  await compare('int2vector', quoted('1 2 3'))
})

test(`random numbers, floats and times (seed ${seed})`, async () => {
  let state = BigInt(seed)
  /** SplitMix64. */
  const next = (): bigint => {
    state = BigInt.asUintN(64, state + 0x9e3779b97f4a7c15n)
    let z = state
    z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n)
    z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn)
    return z ^ (z >> 31n)
  }
  const many = (count: number, one: () => string): string[] => quoted(...Array.from({ length: count }, one))
  const view = new DataView(new ArrayBuffer(8))
  const float8 = (): string => (view.setBigUint64(0, next()), view.getFloat64(0).toString())
  const float4 = (): string => (view.setBigUint64(0, next()), view.getFloat32(0).toString())
  const shifted = () => BigInt.asIntN(64, next()) >> (next() & 63n)
  await compare('int8', many(2000, () => String(shifted())))
  await compare('float8', many(3000, float8))
  await compare('float8', many(2000, () => String(Number(shifted() & 0xffffffffffn) / 10 ** Number(next() % 12n))))
  await compare('float4', many(5000, float4))
  await compare('float4', many(2000, () => String(Math.fround(Number(shifted() & 0xffffffn) / 10 ** Number(next() % 8n)))))
  const range = 9_223_372_036_854_775_807n + 210_866_803_200_000_000n
  const micros = (): bigint => (next() % range) - 210_866_803_200_000_000n
  const units = [1n, 1000n, 1_000_000n, 86_400_000_000n]
  const time = (zone: boolean) => () => {
    const unit = units[Number(next() & 3n)]!
    return formatTimestamp(((next() & 1n ? micros() : next() % 4_102_444_800_000_000n) / unit) * unit, zone)
  }
  await compare('timestamp', many(2000, time(false)))
  await compare('timestamptz', many(2000, time(true)))
  await compare('date', many(2000, () => formatDate(Number(next() % 2_147_483_493n) - 2_440_588)))
})

test('odd names, 63 bytes, and 1,600 columns', async () => {
  const long = 'ü'.repeat(31)
  await client.query(`CREATE SCHEMA "s""ch.em a"; CREATE TABLE "s""ch.em a"."${long}" ("a b" int4 PRIMARY KEY, "a.b" int4, "a_b" int4, "${long}" int4)`)
  const odd = await changesOf(() => client.query(`INSERT INTO "s""ch.em a"."${long}" VALUES (1, 2, 3, 4)`))
  assert.deepEqual(odd.changes[0]!.after, { a_b_2: { int: 1 }, a_b_3: { int: 2 }, a_b: { int: 3 }, ['_'.repeat(31)]: { int: 4 } })
  const [schema] = odd.schemas as { relation: object; fields: { type: { fields: { pg: { name: string } }[] }[] }[] }[]
  assert.deepEqual({ ...schema!.relation, oid: 0 }, { schema: 's"ch.em a', table: long, oid: 0, replicaIdentity: 'default' })
  assert.deepEqual(schema!.fields[2]!.type[1]!.fields.map(({ pg: { name } }) => name), ['a b', 'a.b', 'a_b', long])

  const columns = Array.from({ length: 1600 }, (_, i) => `c${i} int4`)
  await client.query(`CREATE TABLE wide (${columns.join(', ')}); ALTER TABLE wide REPLICA IDENTITY FULL`)
  const wide = await changesOf(async () => {
    await client.query(`INSERT INTO wide VALUES (${columns.map((_, i) => i).join(', ')})`)
    await client.query('UPDATE wide SET c1599 = -1')
  })
  assert.deepEqual(Object.values(wide.changes[0]!.after!), columns.map((_, i) => ({ int: i })))
  assert.deepEqual(wide.changes[1]!.before, wide.changes[0]!.after)
  assert.deepEqual(wide.changes[1]!.after!['c1599'], { int: -1 })
})

test('tables and columns that take over a name, and an enum that grows in the same transaction', async () => {
  await client.query('CREATE TABLE left_one (id int4 PRIMARY KEY); CREATE TABLE right_one (id int4 PRIMARY KEY, t text)')
  const swapped = await changesOf(async () => {
    await client.query('INSERT INTO left_one VALUES (1); INSERT INTO right_one VALUES (2)')
    await client.query('BEGIN; ALTER TABLE left_one RENAME TO aside; ALTER TABLE right_one RENAME TO left_one; ALTER TABLE aside RENAME TO right_one; COMMIT')
    await client.query('INSERT INTO left_one VALUES (3); INSERT INTO right_one VALUES (4)')
  })
  const tables = ({ changes }: { changes: Change[] }) => changes.map(({ namespace, after: row }) => [namespace.split('.')[2], row!['id']])
  assert.deepEqual(tables(swapped), [['left_one', { int: 1 }], ['right_one', { int: 2 }], ['left_one', { int: 3 }], ['right_one',
    { int: 4 }]])
  assert.deepEqual(Object.keys(swapped.changes[2]!.after!), ['id', 't'])

  const again = await changesOf(async () => {
    await client.query("INSERT INTO left_one VALUES (5, 'old'); DROP TABLE left_one; CREATE TABLE left_one (id int8 PRIMARY KEY); INSERT INTO left_one VALUES (6)")
    await client.query('BEGIN; ALTER TABLE left_one DROP id; ALTER TABLE left_one ADD id text; INSERT INTO left_one VALUES (7); COMMIT')
  })
  assert.deepEqual(again.changes.map(({ after: row }) => row), [{ id: { int: 5 }, t: { string: 'old' } }, { id: { long: 6n } },
    { id: { string: '7' } }])

  const grown = await changesOf(() =>
    client.query("BEGIN; CREATE TYPE mood AS ENUM ('sad'); ALTER TYPE mood ADD VALUE 'ok'; CREATE TABLE moods (m mood, ms mood[]); INSERT INTO moods VALUES ('ok', '{ok,sad}'); COMMIT"),
  )
  assert.deepEqual(grown.changes[0]!.after, { m: { string: 'ok' }, ms: { string: '{ok,sad}' } })
})

test('a message outside of transactions never shares its position with the transaction whose commit follows it', async () => {
  await client.query('CREATE TABLE held (id int4 PRIMARY KEY)')
  await client.query("SELECT pg_create_logical_replication_slot('positions', 'pgoutput')")
  // The commit record follows the message directly: the end of the one is the start of the other.
  for (let i = 0; i < 20; i++) await client.query(`BEGIN; INSERT INTO held VALUES (${i}); SELECT pg_logical_emit_message(false, 'p', repeat('x', ${i})); COMMIT`)
  const encoder = new ChangeEncoder(Buffer.alloc(32))
  for (const { message } of await peekMessages(client, 'positions', 'everything')) encoder.push(message)
  await client.query("SELECT pg_drop_replication_slot('positions')")
  const transactions = encoder.take()!.transactions
  assert.equal(transactions.length, 40)
  for (let i = 1; i < 40; i++) assert.ok(transactions[i]!.lsn > transactions[i - 1]!.lsn)
  assert.ok(transactions.some(({ lsn }, i) => i > 0 && transactions[i - 1]!.endLsn === lsn), 'the case that this is about')
})

test('the same WAL gives the same bytes, in one session or in one for each transaction, whatever DDL stands between', async () => {
  await client.query("CREATE TYPE colour AS ENUM ('red'); CREATE TABLE painted (id int4 PRIMARY KEY, c colour, big text)")
  for (const slot of ['one_session', 'many_sessions']) await client.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')",
    [slot])
  const ddl = [
    'ALTER TYPE colour RENAME TO shade', 'CREATE SCHEMA elsewhere', 'ALTER TYPE shade SET SCHEMA elsewhere',
      "ALTER TYPE elsewhere.shade RENAME VALUE 'red' TO 'rouge'",
    'ALTER TABLE painted REPLICA IDENTITY FULL', 'ALTER TABLE painted RENAME big TO large', 'ALTER TABLE painted SET SCHEMA elsewhere',
      'ALTER SCHEMA elsewhere RENAME TO moved',
    'ALTER TABLE moved.painted RENAME TO drawn', 'ALTER TABLE moved.drawn ALTER large TYPE varchar(9000)',
      'ALTER TABLE moved.drawn DROP id', 'CREATE INDEX ON moved.drawn (large)',
  ]
  const table = async (): Promise<string> =>
    (await client.query<{ name: string }>("SELECT oid::regclass::text AS name FROM pg_class WHERE relname IN ('painted', 'drawn')")).rows[0]!.name
  const label = async (): Promise<string> =>
    (await client.query<{ label: string }>("SELECT enumlabel AS label FROM pg_enum WHERE enumlabel IN ('red', 'rouge')")).rows[0]!.label
  for (const [i, sql] of ['SELECT', ...ddl].entries()) {
    await client.query(sql)
    const [name, red] = [await table(), await label()]
    const id = ddl.indexOf('ALTER TABLE moved.drawn DROP id') < i ? '' : `${i}, `
    await client.query(`INSERT INTO ${name} VALUES (${id}'${red}', repeat('x', 20))`)
    await client.query(`BEGIN; UPDATE ${name} SET c = c; DELETE FROM ${name}; COMMIT`).catch(() => client.query('ROLLBACK'))
  }
  const one = new ChangeEncoder(Buffer.alloc(32))
  for (const { message } of await peekMessages(client, 'one_session', 'everything')) one.push(message)
  const whole = one.take()!

  // A new decoding session for each transaction, and a new encoder that goes on with the chain.
  let chain: Uint8Array = Buffer.alloc(32)
  const pieces: Buffer[] = []
  const schemas = new Map(one.takeSchemas().map(({ fingerprint, schema }) => [fingerprint, schema]))
  for (;;) {
    const { rows } = await client.query<{ data: Buffer }>(
      "SELECT data FROM pg_logical_slot_get_binary_changes('many_sessions', NULL, 1, 'proto_version', '4', 'publication_names', 'everything', 'messages', 'true')",
    )
    if (rows.length === 0) break
    const encoder = new ChangeEncoder(chain)
    for (const { data } of rows) encoder.push(data)
    const batch = encoder.take()!
    for (const { fingerprint } of encoder.takeSchemas()) assert.ok(schemas.has(fingerprint))
    pieces.push(batch.bytes)
    chain = Buffer.from(batch.transactions.at(-1)!.chain)
  }
  for (const slot of ['one_session', 'many_sessions']) await client.query('SELECT pg_drop_replication_slot($1)', [slot])
  assert.ok(pieces.length > 15)
  assert.deepEqual(Buffer.concat(pieces), whole.bytes)
})

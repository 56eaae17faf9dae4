import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { BeyondError } from '../../src/errors.ts'
import {
  decodeAnswer,
  decodeRequest,
  encodeCancel,
  encodeError,
  encodeItem,
  encodeRequest,
  encodeResult,
  flag,
  integer,
  LineReader,
  MAX_DEADLINE_MS,
  oneOf,
  readParams,
} from '../../src/manage/rpc-protocol.ts'

const bytes = (text: string): Buffer => Buffer.from(text)
const lineOf = (text: string): Buffer => bytes(text.trimEnd())

test('a request and a cancel come back as they were said', () => {
  const request = decodeRequest(lineOf(encodeRequest(7, 'logs', { lines: 5 }, 1000)))
  assert.deepEqual(request, { kind: 'request', id: 7, method: 'logs', params: { lines: 5 }, deadlineMs: 1000 })
  assert.deepEqual(decodeRequest(lineOf(encodeRequest('a', 'health', {}))), { kind: 'request', id: 'a', method: 'health', params: {}, deadlineMs: undefined })
  assert.deepEqual(decodeRequest(lineOf(encodeCancel(7))), { kind: 'cancel', id: 7 })
})

test('what is no request is refused with a code, and with its id where it has one', () => {
  const cases: [string, string | number | null, string][] = [
    ['', null, 'PROTOCOL_VIOLATION'],
    ['{', null, 'PROTOCOL_VIOLATION'],
    ['[]', null, 'PROTOCOL_VIOLATION'],
    ['null', null, 'PROTOCOL_VIOLATION'],
    ['{"v":1,"method":"health"}', null, 'PROTOCOL_VIOLATION'],
    ['{"v":1,"id":-1,"method":"health"}', null, 'PROTOCOL_VIOLATION'],
    ['{"v":1,"id":1.5,"method":"health"}', null, 'PROTOCOL_VIOLATION'],
    ['{"v":1,"id":"","method":"health"}', null, 'PROTOCOL_VIOLATION'],
    [`{"v":1,"id":"${'x'.repeat(65)}","method":"health"}`, null, 'PROTOCOL_VIOLATION'],
    ['{"id":1,"method":"health"}', 1, 'UNSUPPORTED_VERSION'],
    ['{"v":2,"id":1,"method":"health"}', 1, 'UNSUPPORTED_VERSION'],
    ['{"v":1,"id":1}', 1, 'BAD_REQUEST'],
    ['{"v":1,"id":1,"method":5}', 1, 'BAD_REQUEST'],
    ['{"v":1,"id":1,"method":"health","params":[]}', 1, 'BAD_REQUEST'],
    ['{"v":1,"id":1,"method":"health","params":null}', 1, 'BAD_REQUEST'],
    ['{"v":1,"id":1,"method":"health","deadlineMs":0}', 1, 'BAD_REQUEST'],
    [`{"v":1,"id":1,"method":"health","deadlineMs":${MAX_DEADLINE_MS + 1}}`, 1, 'BAD_REQUEST'],
    ['{"v":1,"id":1,"method":"health","more":1}', 1, 'BAD_REQUEST'],
    ['{"v":1,"id":1,"__proto__":{},"method":"health"}', 1, 'BAD_REQUEST'],
    ['{"v":1,"id":1,"cancel":false}', 1, 'BAD_REQUEST'],
    ['{"v":1,"id":1,"cancel":true,"method":"health"}', 1, 'BAD_REQUEST'],
  ]
  for (const [text, id, code] of cases) {
    const refusal = decodeRequest(bytes(text))
    assert.ok(refusal.kind === 'refusal', text)
    assert.deepEqual([refusal.id, refusal.error.code], [id, code], text)
  }
  const invalid = decodeRequest(Buffer.from([0x22, 0xff, 0x22]))
  assert.ok(invalid.kind === 'refusal')
})

test('answers come back as they were given; a fault of the box shows no details', () => {
  assert.deepEqual(decodeAnswer(lineOf(encodeItem(1, 'x'))), { kind: 'item', id: 1, value: 'x' })
  assert.deepEqual(decodeAnswer(lineOf(encodeResult(1, undefined))), { kind: 'result', id: 1, value: null })
  const timeout = decodeAnswer(lineOf(encodeError(null, new BeyondError('TIMEOUT', 'Late.'))))
  assert.ok(timeout.kind === 'error' && timeout.error.code === 'TIMEOUT' && timeout.error.message === 'Late.')
  assert.match(encodeError(1, new BeyondError('TIMEOUT', 'Late.')), /"retry":true/)
  const fault = decodeAnswer(lineOf(encodeError(1, new Error('secret'))))
  assert.ok(fault.kind === 'error' && fault.error.code === 'INTERNAL' && !fault.error.message.includes('secret'))
  const newer = decodeAnswer(bytes('{"v":1,"id":1,"error":{"code":"NOT_YET_KNOWN","message":"New."}}'))
  assert.ok(newer.kind === 'error' && newer.error.code === 'INTERNAL' && newer.error.message === 'New.')
  for (const text of ['', '1', '{}', '{"id":1}', '{"id":null,"result":1}', '{"id":{},"error":{}}']) {
    assert.throws(() => decodeAnswer(bytes(text)), { code: 'PROTOCOL_VIOLATION' }, text)
  }
})

test('lines come out alike however the bytes are cut', () => {
  fc.assert(
    fc.property(fc.array(fc.stringMatching(/^[^\n]*$/u)), fc.infiniteStream(fc.integer({ min: 1, max: 9 })), (texts, sizes) => {
      const stream = bytes(texts.map((text) => `${text}\n`).join(''))
      const reader = new LineReader(4096)
      const lines: string[] = []
      for (let at = 0; at < stream.length; ) {
        const size = sizes.next().value as number
        const chunk = Buffer.from(stream.subarray(at, at + size))
        lines.push(...reader.push(chunk).map((line) => Buffer.from(line).toString()))
        chunk.fill(0) // its owner may use it again
        at += size
      }
      assert.deepEqual(lines, texts.map((text) => bytes(text).toString()))
      assert.equal(reader.partial, false)
    }),
  )
})

test('a line may be as long as the bound and no longer', () => {
  const reader = new LineReader(10)
  assert.equal(reader.push(bytes('0123456789\n'))[0].length, 10)
  assert.deepEqual(reader.push(bytes('01234')), [])
  assert.ok(reader.partial)
  assert.throws(() => reader.push(bytes('567890')), { code: 'PROTOCOL_VIOLATION' })
  assert.throws(() => new LineReader(10).push(bytes(`${'x'.repeat(11)}\n`)), { code: 'PROTOCOL_VIOLATION' })
})

test('mutated requests are read or refused, never thrown at', () => {
  const good = lineOf(encodeRequest(7, 'logs', { lines: 5, follow: true }, 1000))
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(good.length), fc.nat(255), fc.constantFrom('set', 'insert', 'delete')), { minLength: 1, maxLength: 6 }), (changes) => {
      const mutated = [...good]
      for (const [at, value, how] of changes) {
        if (how === 'set') mutated[at] = value
        else if (how === 'insert') mutated.splice(at, 0, value)
        else mutated.splice(at, 1)
      }
      const read = decodeRequest(Buffer.from(mutated))
      assert.ok(['request', 'cancel', 'refusal'].includes(read.kind))
      if (read.kind === 'request') assert.ok(read.deadlineMs === undefined || (read.deadlineMs >= 1 && read.deadlineMs <= MAX_DEADLINE_MS))
    }),
    { numRuns: 20_000 },
  )
  fc.assert(fc.property(fc.json(), (text) => assert.ok(decodeRequest(bytes(text)).kind)), { numRuns: 2_000 })
  assert.ok(decodeRequest(bytes('['.repeat(1_000_000))).kind === 'refusal')
})

test('parameters are read exactly', () => {
  const shape = { lines: integer(0, 100, 20), follow: flag, child: oneOf('cdc', 'postgres') }
  assert.deepEqual(readParams({}, shape), { lines: 20, follow: false, child: undefined })
  assert.deepEqual(readParams({ lines: 0, follow: true, child: 'cdc' }, shape), { lines: 0, follow: true, child: 'cdc' })
  for (const params of [{ lines: -1 }, { lines: '1' }, { lines: 101 }, { follow: 1 }, { child: 'x' }, { other: 1 }, JSON.parse('{"__proto__":1}')]) {
    assert.throws(() => readParams(params, shape), { code: 'BAD_REQUEST' }, JSON.stringify(params))
  }
})

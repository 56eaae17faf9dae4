import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { LineSplitter, ownLine, pgbouncerLine, postgresLine } from '../../src/manage/log-line.ts'

test('log lines: levels of Postgres, PgBouncer and our own', () => {
  const at = '2030-01-01 00:00:00.000 UTC [12]'
  assert.deepEqual(postgresLine(`${at} 00000 LOG:  database system is ready`), { level: 'info', text: 'database system is ready', fields: { childPid: 12 } })
  assert.deepEqual(postgresLine(`${at} 42P01 ERROR:  relation "x" does not exist`), {
    level: 'warn',
    text: 'relation "x" does not exist',
    fields: { childPid: 12, sqlState: '42P01' },
  })
  assert.equal(postgresLine(`${at} XX000 PANIC:  could not write`).level, 'error')
  assert.equal(postgresLine(`${at} FATAL:  lock file exists`).level, 'error', 'before the config is read there is no SQLSTATE')
  assert.equal(postgresLine(`${at} 57P01 FATAL:  terminating connection due to administrator command`).level, 'info')
  assert.equal(postgresLine(`${at} 28P01 FATAL:  password authentication failed`).level, 'warn')
  assert.equal(postgresLine(`${at} 00000 HINT:  try this`).text, 'HINT: try this')
  assert.deepEqual(postgresLine('postgres: could not access directory'), { level: 'info', text: 'postgres: could not access directory' })
  assert.deepEqual(pgbouncerLine(`${at} WARNING unsupported`), { level: 'warn', text: 'unsupported' })
  assert.equal(pgbouncerLine(`${at} FATAL cannot`).level, 'error')
  assert.deepEqual(ownLine('{"level":40,"time":1,"pid":2,"msg":"slow","slot":"s"}'), { level: 'warn', text: 'slow', fields: { slot: 's' } })
  assert.deepEqual(ownLine('Error: boom'), { level: 'warn', text: 'Error: boom' })
  assert.deepEqual(ownLine('{torn'), { level: 'warn', text: '{torn' })
})

test('lines: any cutting gives the same lines, and none grows without bound', () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom('a', 'b', '\n') }), fc.array(fc.nat(10)), (text, cuts) => {
      const lines: string[] = []
      const splitter = new LineSplitter((line) => lines.push(line))
      let at = 0
      for (const cut of cuts) splitter.push(text.slice(at, (at += cut)))
      splitter.push(text.slice(at))
      splitter.end()
      assert.deepEqual(lines, text.split('\n').filter((line) => line !== ''))
    }),
  )
  const pieces: string[] = []
  const splitter = new LineSplitter((line) => pieces.push(line), 4)
  splitter.push('123456789')
  assert.deepEqual(pieces, ['1234', '5678'])
  splitter.push('0\nabcdef\n')
  assert.deepEqual(pieces, ['1234', '5678', '90', 'abcd', 'ef'])
})

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { BeyondError } from '../../src/errors.ts'
import { chooseAccount, parsePasswd, withAncestors } from '../../src/manage/account.ts'
import { writeFileAtomic } from '../../src/manage/atomic-file.ts'
import { LineSplitter, ownLine, pgbouncerLine, postgresLine } from '../../src/manage/log-line.ts'
import { parseLimit, parseOpenFiles } from '../../src/manage/machine.ts'
import { identify, isAlive, parseStat } from '../../src/manage/process-identity.ts'
import { parseVersion } from '../../src/manage/programs.ts'
import { shellWord } from '../../src/manage/ready-text.ts'
import { afterExit, noRestarts } from '../../src/manage/restart-policy.ts'
import { stopSignals } from '../../src/manage/stop-signals.ts'

test('account: an ordinary user is himself, root becomes postgres or nobody', () => {
  const passwd = parsePasswd('root:x:0:0::/:/bin/sh\nbroken\nnobody:x:65534:65534:::\nada:x:1000:1001:::\n')
  assert.deepEqual(chooseAccount({ uid: 1000, gid: 1001 }, passwd, undefined), { uid: 1000, gid: 1001, name: 'ada', separate: false })
  assert.deepEqual(chooseAccount({ uid: 4, gid: 4 }, passwd, undefined).name, 'uid 4')
  const root = { uid: 0, gid: 0 }
  assert.deepEqual(chooseAccount(root, passwd, undefined), { uid: 65534, gid: 65534, name: 'nobody', separate: true })
  const later = [...passwd, { name: 'postgres', uid: 101, gid: 104 }]
  assert.equal(chooseAccount(root, later, undefined).name, 'postgres')
  assert.equal(chooseAccount(root, later, 65534).name, 'nobody', 'data that exists keeps its account')
  assert.equal(chooseAccount(root, later, 1000).name, 'postgres', 'but only one of ours')
  assert.throws(() => chooseAccount(root, [], undefined), BeyondError)
  assert.deepEqual(withAncestors('/a/b'), ['/', '/a', '/a/b'])
})

test('atomic file: looks before it acts, sets the mode, follows no link', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'beyond-file-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const path = join(directory, 'file')
  assert.equal(writeFileAtomic(path, 'one', { mode: 0o600 }), true)
  assert.equal(writeFileAtomic(path, 'one', { mode: 0o640 }), false)
  assert.equal(statSync(path).mode & 0o777, 0o640)
  const elsewhere = join(directory, 'elsewhere')
  writeFileSync(elsewhere, 'theirs')
  symlinkSync(elsewhere, `${path}.beyond-new`)
  assert.equal(writeFileAtomic(path, 'two', { mode: 0o600 }), true)
  assert.equal(readFileSync(elsewhere, 'utf8'), 'theirs')
  rmSync(path)
  symlinkSync(elsewhere, path)
  writeFileAtomic(path, 'three', { mode: 0o600 })
  assert.equal(readFileSync(elsewhere, 'utf8'), 'theirs')
  assert.equal(readFileSync(path, 'utf8'), 'three')
  assert.deepEqual(readdirSync(directory).sort(), ['elsewhere', 'file'])
})

test('process identity: survives names with parentheses, and a zombie is not alive', async () => {
  const line = `7 (odd) name (x)) S ${Array.from({ length: 18 }, (_, at) => at).join(' ')} 4711 9`
  assert.deepEqual(parseStat(line), { state: 'S', startTime: '4711' })
  const child = spawn('sleep', ['60'])
  const identity = identify(child.pid ?? 0)
  assert.ok(identity && isAlive(identity))
  assert.equal(isAlive({ ...identity, startTime: '1' }), false, 'another process of the same number')
  assert.equal(isAlive({ ...identity, bootId: 'earlier' }), false)
  child.kill('SIGKILL')
  await once(child, 'exit')
  assert.equal(isAlive(identity), false)
})

test('machine: limits of memory and open files', () => {
  assert.equal(parseLimit('536870912\n'), 536_870_912)
  assert.equal(parseLimit('max\n'), Number.POSITIVE_INFINITY)
  assert.equal(parseLimit(''), Number.POSITIVE_INFINITY)
  assert.equal(parseOpenFiles('Limit  Soft Limit\nMax open files            20000                20000                files\n'), 20_000)
  assert.equal(parseOpenFiles('Max open files            unlimited            unlimited            files'), 1_048_576)
  assert.equal(parseOpenFiles(''), 1024)
})

test('programs: versions', () => {
  assert.deepEqual(parseVersion('postgres (PostgreSQL) 18.6 (Debian 18.6-3)'), [18, 6])
  assert.deepEqual(parseVersion('psql (PostgreSQL) 18beta1'), [18, 0])
  assert.deepEqual(parseVersion('PgBouncer 1.26.1\nlibevent 2.1.13-stable'), [1, 26])
  assert.deepEqual(parseVersion('nonsense'), [])
})

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

test('restart policy: doubles, has a ceiling, forgets after a good minute', () => {
  let history = noRestarts
  const delays = Array.from({ length: 12 }, () => {
    const decision = afterExit(history, 10, false)
    history = decision.history
    return decision.delayMs
  })
  assert.deepEqual(delays, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000])
  assert.deepEqual(afterExit(history, 60_000, false), { history: { attempt: 1 }, delayMs: 100 })
  assert.equal(afterExit(noRestarts, 10, true).delayMs, 30_000)
})

test('stop signals: the echo of a Ctrl-C is no second one', () => {
  const source = new EventEmitter()
  let now = 0
  const { stop, hurry } = stopSignals(source, () => now)
  source.emit('SIGINT')
  assert.deepEqual([stop.aborted, hurry.aborted], [true, false])
  now = 50
  source.emit('SIGINT')
  assert.equal(hurry.aborted, false)
  now = 600
  source.emit('SIGINT')
  assert.equal(hurry.aborted, true)
})

test('shell words are read back as they were', () => {
  assert.equal(shellWord('/a/b-c.d'), '/a/b-c.d')
  assert.equal(shellWord("it's here"), "'it'\\''s here'")
})

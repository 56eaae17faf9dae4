import assert from 'node:assert/strict'
import { appendFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { logFilter, tailLog } from '../../src/manage/log-tail.ts'
import { Random, testSeed } from '../support/random.ts'
import { until } from './box-process.ts'

const all = (_line: string): boolean => true

function logIn(t: TestContext, text: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'beyond-log-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  writeFileSync(join(folder, 'log'), text)
  return join(folder, 'log')
}

async function last(path: string, lines: number, wanted = all): Promise<string[]> {
  const found: string[] = []
  await tailLog(path, { lines, follow: false, wanted }, async (line) => void found.push(line), AbortSignal.timeout(5_000))
  return found
}

test('the last lines, whatever their lengths, the unfinished one left out', async (t) => {
  const random = new Random(testSeed)
  t.diagnostic(`seed ${testSeed}`)
  const lines = Array.from({ length: 400 }, (_, n) => `${n} ${'ä'.repeat(random.integer(0, random.chance(0.02) ? 90_000 : 300))}`)
  const path = logIn(t, `${lines.join('\n')}\nnot finished`)
  for (const count of [0, 1, 7, 399, 400, 1000]) assert.deepEqual(await last(path, count), count === 0 ? [] : lines.slice(-count), String(count))
  const odd = (line: string): boolean => Number(line.split(' ')[0]) % 2 === 1
  assert.deepEqual(await last(path, 5, odd), lines.filter(odd).slice(-5))
})

test('short logs', async (t) => {
  assert.deepEqual(await last(logIn(t, ''), 5), [])
  assert.deepEqual(await last(logIn(t, 'half'), 5), [])
  assert.deepEqual(await last(logIn(t, 'one\n'), 5), ['one'])
  await assert.rejects(last(join(tmpdir(), 'no such log'), 5))
})

test('following it, over the half line at its end, and when it is put aside', async (t) => {
  const path = logIn(t, 'a\nb\nc')
  const found: string[] = []
  const stop = new AbortController()
  const following = tailLog(path, { lines: 1, follow: true, wanted: (line) => line !== 'no' }, async (line) => void found.push(line), stop.signal)
  await until(() => found.length === 1)
  appendFileSync(path, 'C\nno\nd\n')
  await until(() => found.length === 3)
  appendFileSync(path, 'e\n')
  renameSync(path, `${path}.1`)
  writeFileSync(path, 'f\n')
  await until(() => found.length === 5)
  assert.deepEqual(found, ['b', 'cC', 'd', 'e', 'f'])
  stop.abort()
  await assert.rejects(following, { name: 'AbortError' })
})

test('lines by child and level', () => {
  const line = (fields: object): string => JSON.stringify({ level: 30, msg: 'x', ...fields })
  const child = logFilter('box', undefined)
  assert.ok(child(line({})) && !child(line({ child: 'cdc' })))
  const level = logFilter(undefined, 'warn')
  assert.ok(level(line({ level: 40 })) && level(line({ level: 50, child: 'cdc' })) && !level(line({})))
  assert.ok(!level('not JSON') && logFilter(undefined, undefined)('not JSON'))
})

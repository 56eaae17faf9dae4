import assert from 'node:assert/strict'
import { test } from 'node:test'
import { classifyExit, type ExitClass } from '../../src/manage/exit-class.ts'
import type { Exit } from '../../src/manage/running-process.ts'

const exit = (code?: number, signal?: string): Exit => ({ code, signal })
const cases: [string, Exit, string[], ExitClass][] = [
  ['a clean end', exit(0), [], 'finished'],
  ['a refusal', exit(1), ['FATAL: could not bind'], 'failed'],
  ['a full disk', exit(1), ['could not write: No space left on device'], 'disk-full'],
  ['a full disk that ended in a PANIC', exit(undefined, 'SIGABRT'), ['PANIC: could not write: No space left on device'], 'disk-full'],
  ['the kernel, for want of memory', exit(undefined, 'SIGKILL'), [], 'killed'],
  ['a fault', exit(undefined, 'SIGSEGV'), [], 'crashed'],
  ['a PANIC', exit(undefined, 'SIGABRT'), [], 'crashed'],
  ['an operator', exit(undefined, 'SIGTERM'), [], 'stopped-by-others'],
  ['an adopted one', exit(), [], 'unknown'],
  ['no such program', { ...exit(), failure: new Error('ENOENT') }, [], 'not-started'],
]

for (const [what, end, lines, expected] of cases) {
  test(`${what} is ${expected}`, () => {
    assert.equal(classifyExit(end, lines.map((text) => ({ level: 'info', text }))), expected)
  })
}

// npm test: types, rules, then every test. npm test -- FILE_OR_FOLDER… [--FLAG_OF_NODE_TEST…]: only these tests.

import { readdirSync, statSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { root } from './ensure.mjs'
import { lint } from './lint.mjs'
import { runProgram } from './run-program.mjs'

const given = process.argv.slice(2)
const flags = given.filter((arg) => arg.startsWith('-'))
const paths = given.filter((arg) => !arg.startsWith('-'))

const files = [...new Set((paths.length > 0 ? paths.map((path) => resolve(path)) : [join(root, 'test')]).flatMap(testsIn))].sort()
if (files.length === 0) fail(`No tests (*.test.ts) in ${paths.join(', ') || 'test/'}.`, 2)
if (paths.length === 0 && !lint()) fail('Types or rules are violated, see above: no test was run.', 1)

runProgram(process.execPath, [
  '--test',
  // Most tests have a Postgres of their own: more at a time would only wait for each other.
  '--test-concurrency=2',
  // No test may hang a run; a file's tests count together.
  '--test-timeout=180000',
  // Nor may a handle that a file leaves open, after its last test.
  '--test-force-exit',
  '--test-reporter=spec',
  ...flags,
  ...files.map((file) => relative(root, file)),
], process.env, (error) => fail(error.message, 1))

/**
 * @param {string} path
 * @returns {string[]}
 */
function testsIn(path) {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (!stat) fail(`There is no ${path}.`, 2)
  if (!stat.isDirectory()) return [path]
  return readdirSync(path, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.test.ts')).map((name) => join(path, name))
}

/**
 * @param {string} message
 * @param {number} code
 * @returns {never}
 */
function fail(message, code) {
  process.stderr.write(`beyond-pg: ${message}\n`)
  process.exit(code)
}

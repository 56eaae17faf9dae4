// node setup/run.mjs [--packages-only] PROGRAM [ARGUMENT…]: makes all ready that a program of the tree needs, then runs it on
// the right Node; --packages-only for programs that need no Postgres. Without a program: only makes ready.
// Runs on Node 20 and later, before any package is there.

import { join } from 'node:path'

const given = process.argv.slice(2)
const packagesOnly = given[0] === '--packages-only'
const [program, ...args] = packagesOnly ? given.slice(1) : given
const { atLeast, formatVersion, leastSetupNode, versionIn } = await import('./versions.mjs')
const version = versionIn(process.version)
if (!version || !atLeast(version, leastSetupNode)) {
  fail(`Set-up needs Node ${leastSetupNode[0]} or later and this is ${version ? formatVersion(version) : process.version}: install a newer one.`, 5)
}

const { ensure, root } = await import('./ensure.mjs')
const { exit, SetupFailure } = await import('./failure.mjs')
const { interrupted } = await import('./command.mjs')

// What root makes, other accounts must be able to use.
if (process.getuid?.() === 0) process.umask(0o022)

const interruption = new AbortController()
let interruptedAt = 0
/** @type {NodeJS.Signals[]} */
const stopping = ['SIGINT', 'SIGTERM', 'SIGHUP']
for (const signal of stopping) process.on(signal, interrupt)

try {
  const ready = await ensure({ postgres: !packagesOnly, signal: interruption.signal })
  if (program === undefined) {
    for (const signal of stopping) process.off(signal, interrupt)
    process.stdout.write(`Node: ${ready.node}\nPostgres: ${ready.env.BEYOND_PG_BINDIR ?? 'not set up'}\nPgBouncer: ${ready.env.BEYOND_PGBOUNCER ?? 'not set up'}\n`)
  } else {
    const { runProgram } = await import('./run-program.mjs')
    if (interruption.signal.aborted) throw interrupted(interruption.signal)
    runProgram(ready.node, [join(root, program), ...args], ready.env, (error) => fail(`${program} could not be started: ${error.message}`, 5))
    for (const signal of stopping) process.off(signal, interrupt)
  }
} catch (error) {
  if (!(error instanceof SetupFailure)) throw error
  fail(error.message, error.exitCode)
}

/** @param {string} signal */
function interrupt(signal) {
  // The commands that run are told by us, or by the terminal; the second time nobody waits for them.
  // npm passes on what the terminal has told us already: what comes at once is no second time.
  if (interruption.signal.aborted && performance.now() - interruptedAt > 1000) process.exit(exit.interrupted)
  interruptedAt = interruption.signal.aborted ? interruptedAt : performance.now()
  interruption.abort(signal)
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

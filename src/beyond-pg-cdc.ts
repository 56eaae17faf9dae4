#!/usr/bin/env node
/** `beyond-pg-cdc`: the change data capture service beside a primary, and its subscriber's commands. */
import { Command, CommanderError } from 'commander'
import type { Io } from './cli/tail.ts'
import { BeyondError, exit, fromSystem } from './errors.ts'
import { version } from './version.ts'

/** A Ctrl-C may reach us twice, from the terminal and from npm. */
const ECHO_MS = 500

const { stdout, stderr, env, argv } = process
// Whoever read our errors may be gone; that is no reason to fail.
stderr.on('error', () => {})

/** Ctrl-C and its relatives: the first asks for an orderly end, another one cuts it short. */
function stopSignal(): AbortSignal {
  const stop = new AbortController()
  let askedAt = Infinity
  const onSignal = () => {
    if (performance.now() - askedAt > ECHO_MS) process.exit(exit.failed)
    if (!stop.signal.aborted) askedAt = performance.now()
    stop.abort()
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal)
  return stop.signal
}

/** Signals are the command's business from the moment it runs: `serve` has its own way with them. */
let stop: AbortSignal | undefined
const io: Io = {
  stdout,
  stderr,
  env,
  get stop() {
    return (stop ??= stopSignal())
  },
}

const program = new Command('beyond-pg-cdc')
  .description('the changes of a Postgres database, streamed over QUIC')
  .version(version)
  .exitOverride()
  .showHelpAfterError('(--help shows all options)')

/** Loaded when it is needed: a subscriber's command should not wait for a service to be loaded. */
const commands: Record<string, () => Promise<Command>> = {
  serve: async () => (await import('./cli/serve.ts')).serveCommand(),
  tail: async () => (await import('./cli/tail.ts')).tailCommand(io),
  status: async () => (await import('./cli/status.ts')).statusCommand(io),
}
const wanted = argv[2] !== undefined && Object.hasOwn(commands, argv[2]) ? [argv[2]] : Object.keys(commands)
for (const name of wanted) program.addCommand((await commands[name]()).copyInheritedSettings(program))

/** Says what went wrong in one sentence, or as JSON; answers the exit code. */
function explain(failure: unknown): number {
  // Commander has said it already.
  if (failure instanceof CommanderError) return failure.exitCode === 0 ? exit.ok : exit.usage
  if (stop?.aborted && (failure as Error).name === 'AbortError') return exit.ok
  const error = failure instanceof BeyondError ? failure : fromSystem(failure, 'running beyond-pg-cdc')
  const facts = Object.fromEntries(
    Object.entries(error.facts).map(([name, value]) => [name, typeof value === 'bigint' ? String(value) : value]),
  )
  if (argv.includes('--json')) stderr.write(`${JSON.stringify({ error: { code: error.code, message: error.message, ...facts } })}\n`)
  else stderr.write(`beyond-pg-cdc: ${error.message} [${error.code}]\n`)
  // A fault of ours needs more than a sentence.
  if (!(failure instanceof BeyondError) && !argv.includes('--json')) stderr.write(`${(failure as Error).stack ?? ''}\n`)
  return error.exitCode
}

/** What is still open after the command has ended would be a leak; it must not keep the process. */
const LINGER_MS = 2_000

try {
  await program.parseAsync()
} catch (failure) {
  process.exitCode = explain(failure)
}
setTimeout(() => process.exit(), LINGER_MS).unref()

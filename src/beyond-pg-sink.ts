#!/usr/bin/env node
/** `beyond-pg-sink`: keeps the WAL of a cluster on another machine, and the commands of those who operate or need it. */
import { Command, CommanderError } from 'commander'
import { BeyondError, exit, fromSystem } from './errors.ts'
import { version } from './version.ts'

const { stderr, argv } = process
// Whoever read our errors may be gone; that is no reason to fail.
stderr.on('error', () => {})

const program = new Command('beyond-pg-sink')
  .description('a quorum member that keeps the WAL of a Postgres cluster, so that nothing acknowledged is lost')
  .version(version)
  .exitOverride()
  .showHelpAfterError('(--help shows all options)')

/** Loaded when it is needed. */
const commands: Record<string, () => Promise<Command>> = {
  run: async () => (await import('./cli/sink-run.ts')).sinkRunCommand(),
  status: async () => (await import('./cli/sink-ask.ts')).sinkStatusCommand(),
  list: async () => (await import('./cli/sink-ask.ts')).sinkListCommand(),
  verify: async () => (await import('./cli/sink-ask.ts')).sinkVerifyCommand(),
  pin: async () => (await import('./cli/sink-ask.ts')).sinkPinCommand(),
  fetch: async () => (await import('./cli/sink-fetch.ts')).sinkFetchCommand(),
  fetcher: async () => (await import('./cli/sink-fetch.ts')).sinkFetcherCommand(),
}
const wanted = argv[2] !== undefined && Object.hasOwn(commands, argv[2]) ? [argv[2]] : Object.keys(commands)
for (const name of wanted) program.addCommand((await commands[name]()).copyInheritedSettings(program))

/** Says what went wrong in one sentence, or as JSON; answers the exit code. */
function explain(failure: unknown): number {
  // Commander has said it already.
  if (failure instanceof CommanderError) return failure.exitCode === 0 ? exit.ok : exit.usage
  const error = failure instanceof BeyondError ? failure : fromSystem(failure, 'running beyond-pg-sink')
  const facts = Object.fromEntries(
    Object.entries(error.facts).map(([name, value]) => [name, typeof value === 'bigint' ? String(value) : value]),
  )
  if (argv.includes('--json')) stderr.write(`${JSON.stringify({ error: { code: error.code, message: error.message, ...facts } })}\n`)
  else stderr.write(`beyond-pg-sink: ${error.message} [${error.code}]\n`)
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

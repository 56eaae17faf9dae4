#!/usr/bin/env node
/** `beyond-pg`: runs on every box, and is what its operator types. The commands are in src/cli, the work in src/manage. */
import { Command, CommanderError } from 'commander'
import { BeyondError, codeOf, exit, fromSystem } from './errors.ts'
import type { BoxIo } from './cli/box-commands.ts'
import { stopSignals } from './manage/stop-signals.ts'

const program = new Command('beyond-pg').description('Postgres 18 in a box, its changes streaming over QUIC').exitOverride()

let operatorStop: AbortSignal | undefined
const io: BoxIo = {
  stdout: process.stdout,
  env: process.env,
  signal: () => (operatorStop ??= stopSignals(process).stop),
  setExitCode: (code) => (process.exitCode = code),
}

/**
 * Each with what only it needs: what keeps a box up stays in memory for months, and a probe must be quick.
 */
const commands: Readonly<Record<string, () => Promise<unknown>>> = {
  start: async () => (await import('./cli/box-start.ts')).addStartCommands(program),
  demo: async () => add((await import('./cli/demo.ts')).demoCommand()),
  scale: async () => add((await import('./cli/scale.ts')).scaleCommand(io)),
  tune: async () => add((await import('./cli/tune.ts')).tuneCommand(io)),
  fork: async () => add((await import('./cli/fork.ts')).forkCommand(io)),
  status: async () => (await import('./cli/box-commands.ts')).addBoxCommands(program, io),
}
const add = (command: Command): Command => program.addCommand(command.exitOverride())
/** Those that are defined together with another one. */
const companions: Readonly<Record<string, string>> = { boot: 'start', health: 'status', metrics: 'status', logs: 'status', pause: 'status', resume: 'status' }

const wanted = process.argv[2] ?? ''
const only = Object.hasOwn(companions, wanted) ? companions[wanted] : wanted
for (const name of Object.hasOwn(commands, only) ? [only] : Object.keys(commands)) await commands[name]()

// A terminal that went away must not end the box before it is stopped in order.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined)
try {
  await program.parseAsync()
} catch (error) {
  process.exitCode = explain(error)
}
process.exit()

/** One sentence on standard error; returns the exit code. */
function explain(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? exit.ok : exit.usage // it has said what is wrong
  if ((error as Error).name === 'AbortError') return exit.ok
  const known = error instanceof BeyondError ? error : fromSystem(error, 'running the box')
  process.stderr.write(`beyond-pg: ${known.message}\n`)
  if (codeOf(known) === 'INTERNAL') process.stderr.write(`${(error as Error).stack ?? ''}\n`)
  return known.exitCode
}

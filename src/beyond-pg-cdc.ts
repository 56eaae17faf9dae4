#!/usr/bin/env node
/** `beyond-pg-cdc`: the change data capture service beside a primary, and its subscriber's commands. */
import { runProgram } from './cli/program.ts'
import type { Io } from './cli/tail.ts'
import { exit } from './errors.ts'

/** A Ctrl-C may reach us twice, from the terminal and from npm. */
const ECHO_MS = 500

/** Ctrl-C and its relatives: the first asks for an orderly end, another one cuts it short. */
function stopSignal(): AbortSignal {
  const asked = new AbortController()
  let askedAt = Infinity
  const onSignal = () => {
    if (performance.now() - askedAt > ECHO_MS) process.exit(exit.failed)
    if (!asked.signal.aborted) askedAt = performance.now()
    asked.abort()
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal)
  return asked.signal
}

/** Signals are the command's business from the moment it runs: `serve` has its own way with them. */
let stop: AbortSignal | undefined
const { stdout, stderr, env } = process
const io: Io = {
  stdout,
  stderr,
  env,
  get stop() {
    return (stop ??= stopSignal())
  },
}

await runProgram({
  name: 'beyond-pg-cdc',
  description: 'the changes of a Postgres database, streamed over QUIC',
  commands: {
    serve: async () => (await import('./cli/serve.ts')).serveCommand(),
    tail: async () => (await import('./cli/tail.ts')).tailCommand(io),
    status: async () => (await import('./cli/status.ts')).statusCommand(io),
  },
  isOrderly: (failure) => stop?.aborted === true && (failure as Error).name === 'AbortError',
})

#!/usr/bin/env node
/** `beyond-pg-sink`: keeps the WAL of a cluster on another machine, and the commands of those who operate or need it. */
import { runProgram } from './cli/program.ts'

await runProgram({
  name: 'beyond-pg-sink',
  description: 'a quorum member that keeps the WAL of a Postgres cluster, so that nothing acknowledged is lost',
  commands: {
    run: async () => (await import('./cli/sink-run.ts')).sinkRunCommand(),
    status: async () => (await import('./cli/sink-ask.ts')).sinkStatusCommand(),
    list: async () => (await import('./cli/sink-ask.ts')).sinkListCommand(),
    verify: async () => (await import('./cli/sink-ask.ts')).sinkVerifyCommand(),
    pin: async () => (await import('./cli/sink-ask.ts')).sinkPinCommand(),
    fetch: async () => (await import('./cli/sink-fetch.ts')).sinkFetchCommand(),
    fetcher: async () => (await import('./cli/sink-fetch.ts')).sinkFetcherCommand(),
  },
})

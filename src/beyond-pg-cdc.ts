/** `beyond-pg-cdc`: the CDC service, and the subscriber's command line. Flags to config, then run. */
import { Command, CommanderError } from 'commander'
import { serveCommand } from './cli/serve.ts'
import { BeyondError, codeOf, codes, exit } from './errors.ts'
import { version } from './version.ts'

const program = new Command('beyond-pg-cdc')
  .description('The changes of a Postgres database, streamed over QUIC.')
  .version(version)
  .exitOverride()
  .configureOutput({ outputError: (text, write) => write(text) })
program.addCommand(serveCommand().exitOverride())

try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? exit.ok : exit.usage
  else {
    const code = codeOf(error)
    process.stderr.write(`beyond-pg-cdc: ${error instanceof BeyondError ? error.message : String((error as Error).stack)} [${code}]\n`)
    process.exitCode = codes[code].exit
  }
}

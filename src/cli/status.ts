/** `beyond-pg-cdc status`: slot, log, subscribers and how far behind each of them is. */
import { Command, Option } from 'commander'
import { connect } from '../transport/client.ts'
import { jsonStatus, statusText } from './format-status.ts'
import { Output } from './output.ts'
import { addServerOptions, connectOptions, explainUnreachable, type ServerFlags } from './server-options.ts'
import type { Io } from './tail.ts'
import { wantsColor, type ColorFlag } from './terminal.ts'

export function statusCommand(io: Io): Command {
  return addServerOptions(new Command('status').description('show the slot, the change log, and each subscriber with its lag'))
    .option('--json', 'as JSON')
    .addOption(new Option('--color <when>', 'colours').choices(['auto', 'always', 'never']).default('auto'))
    .action(async (flags: ServerFlags & { readonly json?: true; readonly color: ColorFlag }) => {
      const options = await connectOptions(flags, 'status')
      await using client = connect(options)
      const status = await client.status({ signal: io.stop }).catch((error: unknown) => {
        throw explainUnreachable(error, flags, options.server)
      })
      const text = flags.json ? `${jsonStatus(status)}\n` : statusText(status, Date.now(), wantsColor(flags.color, io.stdout, io.env))
      await new Output(io.stdout).write(text)
    })
}

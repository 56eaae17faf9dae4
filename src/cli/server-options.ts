/** The flags that say which service to talk to: a local box, or an address with certificates. */
import { type Command, Option } from 'commander'
import { BeyondError } from '../errors.ts'
import type { ConnectOptions } from '../transport/client.ts'
import { version } from '../version.ts'
import { findLocalBox } from './local-box.ts'

export type ServerFlags = {
  readonly data: string
  readonly server?: string
  readonly ca?: string
  readonly cert?: string
  readonly key?: string
  readonly serverName?: string
}

export function addServerOptions(command: Command): Command {
  return command
    .addOption(new Option('--data <dir>', 'data directory of a box on this machine').env('BEYOND_PG_DATA').default('.beyond'))
    .option('--server <host:port>', 'a service elsewhere; needs --ca, --cert and --key')
    .option('--ca <file>', 'certificate of the authority that the service must have')
    .option('--cert <file>', 'our certificate')
    .option('--key <file>', 'the key of our certificate')
    .option('--server-name <name>', "name in the service's certificate, where it is not the host of --server")
}

/** `command`: what we call ourselves to the service, for its operator. */
export async function connectOptions(flags: ServerFlags, command: string): Promise<ConnectOptions> {
  const { server, ca, cert, key, serverName } = flags
  const client = `beyond-pg-${command}/${version}`
  const named = serverName === undefined ? { client } : { client, serverName }
  if (server !== undefined) {
    if (ca === undefined || cert === undefined || key === undefined)
      throw new BeyondError('BAD_ARGUMENT', '--server needs the certificates to use: --ca, --cert and --key.')
    return { ...named, server, tls: { caFile: ca, certFile: cert, keyFile: key } }
  }
  const box = await findLocalBox(flags.data)
  return { ...named, server: box.server, tls: { caFile: ca ?? box.caFile, certFile: cert ?? box.certFile, keyFile: key ?? box.keyFile } }
}

/** A box that is not running is the most likely reason why nothing answers where it should be. */
export function explainUnreachable(error: unknown, flags: ServerFlags, server: string): unknown {
  if (flags.server !== undefined || !(error instanceof BeyondError) || error.code !== 'UNREACHABLE') return error
  return new BeyondError(
    'UNREACHABLE',
    `The box in ${flags.data} does not answer at ${server}: start it with npm start.`,
    { cause: error, facts: { server } },
  )
}

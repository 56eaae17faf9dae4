/** The flags that say which sink to ask, and with which certificate. */
import { readFile } from 'node:fs/promises'
import { type Command, Option } from 'commander'
import { BeyondError, fromSystem } from '../errors.ts'
import type { ClientTls } from '../sink/fetch-client.ts'

export type SinkFlags = { readonly sink: readonly string[]; readonly ca?: string; readonly cert?: string; readonly key?: string }

const gather = (text: string, before: readonly string[] = []): string[] => [...before, ...text.split(/[\s,]+/).filter(Boolean)]

export function addSinkOptions(command: Command): Command {
  const option = (flags: string, description: string, name: string) => new Option(flags, description).env(`BEYOND_SINK_${name}`)
  return command
    .addOption(option('--sink <https://host:port>', 'the sink; where several are asked: again, or separated by commas', 'URL').argParser(gather).default([], 'none'))
    .addOption(option('--ca <file>', 'certificate of the authority that the sink must have', 'CA'))
    .addOption(option('--cert <file>', 'our certificate; its name has a role at the sink', 'CERT'))
    .addOption(option('--key <file>', 'the key of our certificate', 'KEY'))
}

/** undefined: none was given. Throws BAD_ARGUMENT, NO_PERMISSION. */
export async function readClientTls({ ca, cert, key }: SinkFlags): Promise<ClientTls | undefined> {
  if (ca === undefined && cert === undefined && key === undefined) return undefined
  if (ca === undefined || cert === undefined || key === undefined) throw new BeyondError('BAD_ARGUMENT', 'A sink is asked with three files: --ca, --cert and --key.')
  const read = (path: string) =>
    readFile(path, 'utf8').catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') throw new BeyondError('BAD_ARGUMENT', `There is no file ${path}.`, { cause: error })
      throw fromSystem(error, `reading ${path}`)
    })
  return { ca: await read(ca), cert: await read(cert), key: await read(key) }
}

/** For commands that ask one sink. */
export async function oneSink(flags: SinkFlags): Promise<{ readonly url: string; readonly tls: ClientTls }> {
  const tls = await readClientTls(flags)
  if (flags.sink.length !== 1) throw new BeyondError('BAD_ARGUMENT', 'Name one sink with --sink https://HOST:PORT.')
  if (tls === undefined) throw new BeyondError('BAD_ARGUMENT', 'A sink is asked with --ca, --cert and --key.')
  return { url: flags.sink[0], tls }
}

/** Aborts at the first Ctrl-C or SIGTERM; the next one ends the process as it would without us. */
export function stopSignal(): AbortSignal {
  const stop = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => stop.abort())
  return stop.signal
}

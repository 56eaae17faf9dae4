/** `beyond-pg-sink fetch`, made for restore_command, and `fetcher`, which fetches ahead for it. */
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { BeyondError, fromSystem } from '../errors.ts'
import { fetchExit, restoreFile } from '../sink/fetch-restore.ts'
import { addSinkOptions, readClientTls, stopSignal, type SinkFlags } from './sink-options.ts'

type SourceFlags = SinkFlags & { readonly needed?: number; readonly systemId?: bigint; readonly deadline: number }

function positive(text: string): number {
  if (!/^[1-9]\d{0,6}$/.test(text)) throw new InvalidArgumentError('Must be a number from 1 on.')
  return Number(text)
}

function systemId(text: string): bigint {
  if (!/^\d{1,20}$/.test(text)) throw new InvalidArgumentError('Must be the system identifier of a cluster.')
  return BigInt(text)
}

function addSourceOptions(command: Command): Command {
  return addSinkOptions(command)
    .addOption(new Option('--needed <n>', 'sinks that must agree on where WAL ends: N - k + 1 of N with ANY k (default: all)').argParser(positive))
    .addOption(new Option('--system-id <id>', 'refuse the WAL of any other cluster').argParser(systemId))
    .addOption(new Option('--deadline <seconds>', 'try again until then').argParser(positive).default(120))
}

/**
 * Every failure ends above 125, also a flag that doesn't exist: what is below would tell Postgres that WAL ends here.
 * Hence flags are read in here, and not where the other commands' are.
 */
export function sinkFetchCommand(): Command {
  return new Command('fetch')
    .description('fetch one segment or history; exit code 0: it is there, 1: proven not to exist, 200: anything else')
    .usage('[options] <name> <destination>')
    .helpOption(false)
    .allowUnknownOption()
    .argument('[arguments...]')
    .action(async (given: string[]) => {
      for (const event of ['uncaughtException', 'unhandledRejection'] as const) process.on(event, (error: unknown) => process.exit(explain(error, process.stderr)))
      // SIGTERM ends us as it ends any program: Postgres stops its restore_command that way, and knows.
      process.exit(await runFetch(given, process.stderr))
    })
}

/** Answers the exit code; never throws. */
export async function runFetch(given: readonly string[], stderr: Pick<NodeJS.WriteStream, 'write'>): Promise<number> {
  let code: number = fetchExit.failed
  const command = addSourceOptions(new Command('fetch'))
    .exitOverride()
    .configureOutput({ writeErr: (text) => void stderr.write(text) })
    .argument('<name>', 'such as 000000010000000000000003 or 00000002.history: %f')
    .argument('<destination>', 'file to write: %p')
    .option('--socket <path>', 'of a fetcher to ask first')
    .addOption(new Option('--end-exit <code>', 'exit code for "proven not to exist"').argParser(exitCode).default(fetchExit.end))
    .action(async (name: string, destination: string, flags: SourceFlags & { readonly socket?: string; readonly endExit: number }) => {
      const result = await restoreFile({
        name,
        destination,
        socket: flags.socket,
        sinks: flags.sink,
        tls: await readClientTls(flags),
        needed: flags.needed,
        systemId: flags.systemId,
        deadlineMs: flags.deadline * 1_000,
        signal: new AbortController().signal,
      })
      code = result === 'file' ? fetchExit.file : flags.endExit
    })
  try {
    await command.parseAsync(given, { from: 'user' })
  } catch (error) {
    return explain(error, stderr)
  }
  return code
}

function explain(error: unknown, stderr: Pick<NodeJS.WriteStream, 'write'>): number {
  // Commander has said it already. Help is no file either: whoever asks for it in a restore_command is not to be told "end".
  if (error instanceof CommanderError) return fetchExit.failed
  const { message, code } = error instanceof BeyondError ? error : fromSystem(error, 'fetching')
  stderr.write(`beyond-pg-sink: ${message} [${code}]\n`)
  return fetchExit.failed
}

function exitCode(text: string): number {
  const value = positive(text)
  if (value > 255) throw new InvalidArgumentError('Must be an exit code: 1 to 255.')
  return value
}

export function sinkFetcherCommand(): Command {
  return addSourceOptions(new Command('fetcher').description('fetch ahead for restore_command, until told to stop'))
    .requiredOption('--directory <dir>', 'folder of its own, on the volume of the data directory: it is emptied')
    .requiredOption('--socket <path>', 'where `fetch --socket` asks')
    .addOption(new Option('--ahead <MB>', 'how much to hold ready').argParser(positive).default(256))
    .addOption(new Option('--parallel <n>', 'downloads at a time').argParser(positive).default(4))
    .option('--json', 'log as JSON')
    .action(async (flags: SourceFlags & { directory: string; socket: string; ahead: number; parallel: number; json?: true }) => {
      const tls = await readClientTls(flags)
      if (tls === undefined || flags.sink.length === 0) throw new BeyondError('BAD_ARGUMENT', 'A fetcher needs --sink, --ca, --cert and --key.')
      const [{ SinkClient }, { startFetcher }, { createLogger }] = await Promise.all([
        import('../sink/fetch-client.ts'),
        import('../sink/fetch-daemon.ts'),
        import('../logger.ts'),
      ])
      const stop = stopSignal()
      await using clients = new AsyncDisposableStack()
      const sinks = flags.sink.map((url) => clients.use(new SinkClient({ url, tls, connections: flags.parallel + 1 })))
      const log = createLogger({ component: 'fetcher', json: flags.json === true })
      await using _fetcher = await startFetcher({
        sinks,
        needed: flags.needed ?? sinks.length,
        systemId: flags.systemId,
        directory: flags.directory,
        socket: flags.socket,
        aheadBytes: flags.ahead * 1024 * 1024,
        parallel: flags.parallel,
        deadlineMs: flags.deadline * 1_000,
        log,
      })
      process.stdout.write('ready\n')
      await new Promise((resolve) => stop.addEventListener('abort', resolve, { once: true }))
    })
}

/** `beyond-pg fork`: forks of a box on this machine, made and taken care of. */
import { resolve } from 'node:path'
import { Command } from 'commander'
import pino from 'pino'
import { BeyondError } from '../errors.ts'
import { parseLocalConfig } from '../manage/box-config.ts'
import { dropFork, forkOf, forksOf, makeFork, portsOf } from '../manage/fork.ts'
import type { Fork } from '../manage/fork-place.ts'
import { startFork, stateOf, stopFork } from '../manage/fork-process.ts'
import { boxSettings, helpLine } from '../manage/settings.ts'
import { stopSignals } from '../manage/stop-signals.ts'
import { Output } from './output.ts'
import type { Io } from './tail.ts'

type Flags = { readonly data?: string; readonly json?: true }
type MakeFlags = Flags & { readonly at?: string; readonly durable?: true; readonly start: boolean }

const METHODS = {
  'btrfs-snapshot': 'a snapshot of its btrfs subvolume',
  reflink: 'reflinks that share its blocks',
  copy: 'a full copy',
} as const

export function forkCommand(io: Pick<Io, 'stdout' | 'env'>): Command {
  const output = new Output(io.stdout)
  const say = (flags: Flags, value: object, text: string): Promise<void> => output.write(flags.json ? `${JSON.stringify(value)}\n` : text)
  const logger = pino({ level: 'silent' })

  const command = withData(new Command('fork').exitOverride())
    .description('a copy of a running box as a box of its own, and what becomes of it')
    .usage('NAME [options]\n       beyond-pg fork list|start|stop|remove …')
    .argument('[name]')
    .option('--at <dir>', 'where its data shall lie (default: forks/NAME beside the data directory of its source)')
    .option('--durable', 'commits wait for the disk (default: they do not, and autovacuum is throttled)')
    .option('--no-start', 'make it and do not start it')
    .action(async (name: string | undefined, flags: MakeFlags) => {
      if (name === undefined) return command.help({ error: true })
      const began = performance.now()
      const { stop: signal } = stopSignals(process)
      const config = configOf(flags, io)
      const at = flags.at === undefined ? undefined : resolve(flags.at)
      const making = makeFork({ name, at, durable: flags.durable ?? false, config, environment: io.env, logger, signal })
      const made = await making.catch(told(signal, `Fork ${name} was cut off before it was made: nothing is left of it.`))
      const madeMs = Math.round(performance.now() - began)
      const starting = flags.start ? startFork(made.fork, otherPorts(config.dataDir, name), io.env, signal) : made
      const { fork } = await Promise.resolve(starting).catch(told(signal, `Fork ${name} is made, and was cut off before it ran: beyond-pg fork start ${name}.`))
      const ms = Math.round(performance.now() - began)
      const problems = made.problems.map((problem) => `${problem}\n`).join('')
      await say(flags, { ...describe(fork), madeMs, ms, problems: made.problems }, `${madeText(fork, ms, flags.start)}${problems}`)
    })

  const add = (usage: string, description: string, action: (flags: Flags, name: string) => Promise<void>): void => {
    const added = command.command(usage).description(description).action((...given: unknown[]) => {
      const self = given.at(-1) as Command
      return action(self.optsWithGlobals<Flags>(), self.args[0])
    })
    withData(added)
  }
  add('list', 'forks of this box, and of its forks', async (flags) => {
    const forks = forksOf(configOf(flags, io).dataDir)
    await say(flags, forks.map(describe), forks.length === 0 ? 'There are no forks.\n' : table(forks))
  })
  add('start <name>', 'start a fork in the background', async (flags, name) => {
    const { dataDir } = configOf(flags, io)
    const { fork, did } = await startFork(forkOf(dataDir, name), otherPorts(dataDir, name), io.env, stopSignals(process).stop)
    await say(flags, { ...describe(fork), did }, `Fork ${name} runs${did === 'nothing' ? ' already' : ''}.\n${connectText(fork)}`)
  })
  add('stop <name>', 'stop a fork; its data stays', async (flags, name) => {
    const fork = forkOf(configOf(flags, io).dataDir, name)
    const did = await stopFork(fork, logger, stopSignals(process).stop)
    await say(flags, { ...describe(fork), did }, `Fork ${name} ${did === 'nothing' ? 'does not run' : 'is stopped'}.\n`)
  })
  add('remove <name>', 'stop a fork and remove all that it kept', async (flags, name) => {
    const fork = await dropFork(configOf(flags, io).dataDir, name, logger, stopSignals(process).stop)
    await say(flags, { name, path: fork.path, did: 'removed' }, `Fork ${name} is gone.\n`)
  })
  return command
}

/** Who says that a fork was made says that it was. */
const told =
  (signal: AbortSignal, sentence: string) =>
  (error: unknown): never => {
    throw signal.aborted ? new BeyondError('SHUTDOWN', sentence, { cause: error }) : error
  }

const withData = (command: Command): Command => command.option('--data <dir>', helpLine(boxSettings.data)).option('--json', 'one JSON value on standard output')

const configOf = ({ data }: Flags, { env }: Pick<Io, 'env'>) => parseLocalConfig(data === undefined ? {} : { data }, env, process.cwd())

const otherPorts = (dataDir: string, name: string): ReadonlySet<number> => portsOf(forksOf(dataDir).filter(({ record }) => record.name !== name))

function describe(fork: Fork) {
  const { name, source, method, madeAt, lsn, systemIdentifier, ports } = fork.record
  return { name, state: stateOf(fork), path: fork.path, source, method, madeAt, lsn, systemIdentifier, ports }
}

function madeText(fork: Fork, ms: number, started: boolean): string {
  const { name, source, method } = fork.record
  const head = `Fork ${name} of ${source} ${started ? 'runs' : 'is made'}, after ${(ms / 1000).toFixed(1)} s, by ${METHODS[method]}.\n`
  return `${head}${started ? connectText(fork) : `  start it   beyond-pg fork start ${name}\n`}  remove it  beyond-pg fork remove ${name}\n`
}

function connectText({ path, record }: Fork): string {
  const line = `host=127.0.0.1 port=${record.ports.pooler} user=postgres dbname=postgres sslmode=verify-full sslrootcert=${path}/tls/ca.crt`
  return `  connect    PGPASSFILE=${path}/secrets/pgpass psql "${line}"\n`
}

function table(forks: readonly Fork[]): string {
  const head = ['NAME', 'STATE', 'PORT', 'MADE', 'BY', 'OF']
  const rows = forks.map((fork) => {
    const { name, ports, madeAt, method, source } = fork.record
    return [name, stateOf(fork), String(ports.pooler), madeAt.slice(0, 16).replace('T', ' '), method, source]
  })
  const widths = head.map((_title, column) => Math.max(...[head, ...rows].map((row) => row[column].length)))
  return [head, ...rows].map((row) => `${row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column]))).join('  ')}\n`).join('')
}

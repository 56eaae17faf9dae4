/** `beyond-pg-sink run`: flags and environment into one object, then the sink until it is told to stop. */
import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { BeyondError } from '../errors.ts'
import { createLogger } from '../logger.ts'
import { runSinkService, type SinkServiceOptions } from '../sink-service.ts'
import { parseRoles } from '../sink/http-role.ts'
import type { AttachRequest, PrimaryConninfo } from '../sink/sink.ts'
import { version } from '../version.ts'

const MB = 1024 * 1024
const GB = 1024 * MB

function port(text: string): number {
  const value = Number(text)
  if (!/^\d+$/.test(text) || value > 65535) throw new InvalidArgumentError('Must be a port: 0 to 65535.')
  return value
}

/** `512MB`, `10GB`: powers of 1024. */
function bytes(text: string): number {
  const match = /^(\d{1,9})(MB|GB|TB)$/.exec(text)
  if (!match) throw new InvalidArgumentError('Must be a number with a unit: MB, GB or TB.')
  return Number(match[1]) * { MB, GB, TB: 1024 * GB }[match[2] as 'MB' | 'GB' | 'TB']
}

type Flags = {
  data: string
  name: string
  bindir: string
  listen: string
  port: number
  tlsDir: string
  role: string[]
  minFree: number
  primary?: string
  primaryPort: string
  primaryUser: string
  primaryPasswordFile?: string
  primarySslmode?: string
  primaryCa?: string
  primaryCert?: string
  primaryKey?: string
  generation: bigint
  by: string
  json?: true
  logLevel: string
}

export function sinkRunCommand(): Command {
  const option = (flags: string, description: string, name: string) => new Option(flags, description).env(`BEYOND_SINK_${name}`)
  return new Command('run')
    .description('keep the WAL of one cluster: receive, verify, seal and serve it')
    .addOption(option('--data <dir>', 'folder of the sink', 'DATA').makeOptionMandatory())
    .addOption(option('--name <name>', 'of the sink: its slot, and its entry in synchronous_standby_names', 'NAME').makeOptionMandatory())
    .addOption(new Option('--bindir <dir>', 'folder of pg_receivewal').env('BEYOND_PG_BINDIR').default('/usr/lib/postgresql/18/bin'))
    .addOption(option('--listen <address>', 'address for HTTPS', 'LISTEN').default('127.0.0.1'))
    .addOption(option('--port <port>', 'port for HTTPS', 'PORT').argParser(port).default(9444))
    .addOption(option('--tls-dir <dir>', 'folder with server.crt, server.key and ca.crt', 'TLS_DIR').makeOptionMandatory())
    .addOption(
      option('--role <name=role>', 'read, seal or admin for a certificate name; again for more, separated by spaces in the environment', 'ROLES')
        .argParser((text: string, before: string[]) => [...before, ...text.split(/\s+/).filter(Boolean)])
        .default([], 'all may read'),
    )
    .addOption(option('--min-free <size>', 'the receiver rests while less is free on the disk', 'MIN_FREE').argParser(bytes).default(GB, '1GB'))
    .addOption(option('--primary <host>', 'host or socket folder of the first primary; later ones attach over HTTPS', 'PRIMARY'))
    .addOption(option('--primary-port <port>', 'its port', 'PRIMARY_PORT').default('5432'))
    .addOption(option('--primary-user <role>', 'role with REPLICATION', 'PRIMARY_USER').default('beyond_sink'))
    .addOption(option('--primary-password-file <file>', 'file that holds its password', 'PRIMARY_PASSWORD_FILE'))
    .addOption(option('--primary-sslmode <mode>', 'for every primary', 'PRIMARY_SSLMODE').choices(['disable', 'require', 'verify-ca', 'verify-full']))
    .addOption(option('--primary-ca <file>', 'authority that primaries must have', 'PRIMARY_CA'))
    .addOption(option('--primary-cert <file>', 'certificate of this sink for primaries', 'PRIMARY_CERT'))
    .addOption(option('--primary-key <file>', 'its key', 'PRIMARY_KEY'))
    .addOption(option('--generation <number>', 'generation of the first primary', 'GENERATION').argParser(BigInt).default(1n))
    .addOption(option('--by <box>', 'identity of the first primary’s box', 'BY').default('first'))
    .option('--json', 'log lines as JSON')
    .addOption(option('--log-level <level>', 'least level that is logged', 'LOG_LEVEL').choices(['debug', 'info', 'warn', 'error']).default('info'))
    .action(async (flags: Flags) => {
      const logger = createLogger({ component: 'sink', json: flags.json ?? false, level: flags.logLevel })
      const stop = new AbortController()
      const onSignal = () => {
        // Told twice: what is kept is safe at any moment.
        if (stop.signal.aborted) process.exit(1)
        stop.abort()
      }
      process.on('SIGINT', onSignal)
      process.on('SIGTERM', onSignal)
      try {
        await runSinkService(await serviceOptions(flags), logger, stop.signal, (address) => {
          // The first line on standard output is for whoever started us.
          process.stdout.write(`READY ${JSON.stringify(address)}\n`)
        })
      } finally {
        process.off('SIGINT', onSignal)
        process.off('SIGTERM', onSignal)
      }
    })
}

async function serviceOptions(flags: Flags): Promise<SinkServiceOptions> {
  return {
    directory: resolve(flags.data),
    name: flags.name,
    bindir: flags.bindir,
    version,
    listen: { host: flags.listen, port: flags.port },
    tlsDirectory: resolve(flags.tlsDir),
    roles: parseRoles(flags.role),
    minFreeBytes: flags.minFree,
    ownConninfo: withoutUndefined({ sslmode: flags.primarySslmode, sslrootcert: flags.primaryCa, sslcert: flags.primaryCert, sslkey: flags.primaryKey }),
    primary: await firstPrimary(flags),
  }
}

const withoutUndefined = (all: Record<string, string | undefined>): PrimaryConninfo =>
  Object.fromEntries(Object.entries(all).filter((entry): entry is [string, string] => entry[1] !== undefined))

async function firstPrimary({ primary, primaryPort, primaryUser, primaryPasswordFile, generation, by }: Flags): Promise<AttachRequest | undefined> {
  if (primary === undefined) return undefined
  const password = primaryPasswordFile === undefined ? undefined : await readPassword(primaryPasswordFile)
  return { generation, by, conninfo: withoutUndefined({ host: primary, port: primaryPort, user: primaryUser, password }) }
}

async function readPassword(path: string): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).trim()
  } catch (error) {
    throw new BeyondError('BAD_ARGUMENT', `Can't read the password file ${path}: ${(error as Error).message}`, { cause: error })
  }
}

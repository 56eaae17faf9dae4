/** `beyond-pg-cdc serve`: flags and environment into one object, then the service until it is told to stop. */
import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { runCdcService, type CdcServiceOptions } from '../cdc-service.ts'
import { BeyondError } from '../errors.ts'
import { createLogger } from '../logger.ts'
import { opensslQuic } from '../transport/openssl-quic.ts'
import { version } from '../version.ts'

const MB = 1024 * 1024
const GB = 1024 * MB

function integer(min: number, max: number) {
  return (text: string): number => {
    const value = Number(text)
    if (!/^\d+$/.test(text) || value < min || value > max) throw new InvalidArgumentError(`Must be a whole number from ${min} to ${max}.`)
    return value
  }
}

/** `512MB`, `10GB`: powers of 1024. */
function bytes(text: string): number {
  const match = /^(\d{1,9})(kB|MB|GB|TB)$/.exec(text)
  if (!match) throw new InvalidArgumentError('Must be a number with a unit: kB, MB, GB or TB.')
  const scale = { kB: 1024, MB, GB, TB: 1024 * GB }[match[2] as 'kB' | 'MB' | 'GB' | 'TB']
  return Number(match[1]) * scale
}

/** `36h`, `7d`: milliseconds. */
function duration(text: string): number {
  const match = /^(\d{1,6})(s|min|h|d)$/.exec(text)
  if (!match) throw new InvalidArgumentError('Must be a number with a unit: s, min, h or d.')
  const scale = { s: 1_000, min: 60_000, h: 3_600_000, d: 86_400_000 }[match[2] as 's' | 'min' | 'h' | 'd']
  return Number(match[1]) * scale
}

function tables(text: string): string[] {
  const list = text.split(',').map((table) => table.trim())
  if (list.some((table) => !/^[^.]+\.[^.]+$/.test(table))) throw new InvalidArgumentError('Must be a list of schema.table, separated by commas.')
  return list
}

type Flags = {
  socketDir: string
  postgresPort: number
  user: string
  passwordFile?: string
  database: string
  slot: string
  publication: string
  tables: string[]
  data: string
  newHistory?: true
  listen: string
  port: number
  tlsDir: string
  maxConnections: number
  maxSubscriptions: number
  heartbeat: number
  keepBytes: number
  keepAge: number
  consumerKeepBytes: number
  idleMark: number
  segmentBytes: number
  json?: true
  logLevel: string
}

export function serveCommand(): Command {
  const option = (flags: string, description: string, name: string) => new Option(flags, description).env(`BEYOND_CDC_${name}`)
  return new Command('serve')
    .description('read the changes of one database and stream them to subscribers')
    .addOption(option('--socket-dir <dir>', 'folder of the Unix socket of Postgres', 'SOCKET_DIR').makeOptionMandatory())
    .addOption(option('--postgres-port <port>', 'port of Postgres', 'POSTGRES_PORT').argParser(integer(1, 65535)).default(5433))
    .addOption(option('--user <role>', 'role with REPLICATION', 'USER').default('beyond_cdc'))
    .addOption(option('--password-file <file>', 'file that holds the password of the role', 'PASSWORD_FILE'))
    .addOption(option('--database <name>', 'database whose changes are streamed', 'DATABASE').default('postgres'))
    .addOption(option('--slot <name>', 'replication slot, made when missing', 'SLOT').default('beyond_cdc'))
    .addOption(option('--publication <name>', 'publication, made when missing', 'PUBLICATION').default('beyond'))
    .addOption(option('--tables <list>', 'tables of a publication that is made; all by default', 'TABLES').argParser(tables).default([], 'all'))
    .addOption(option('--data <dir>', 'folder of the change log', 'DATA').makeOptionMandatory())
    .option('--new-history', 'put the change log aside, drop the slot and begin a new history; subscribers are told')
    .addOption(option('--listen <address>', 'address for subscribers', 'LISTEN').default('127.0.0.1'))
    .addOption(option('--port <port>', 'UDP port for subscribers', 'PORT').argParser(integer(0, 65535)).default(9443))
    .addOption(option('--tls-dir <dir>', 'folder with server.crt, server.key and ca.crt', 'TLS_DIR').makeOptionMandatory())
    .addOption(option('--max-connections <n>', 'connections at once', 'MAX_CONNECTIONS').argParser(integer(1, 100_000)).default(1_000))
    .addOption(option('--max-subscriptions <n>', 'subscriptions at once', 'MAX_SUBSCRIPTIONS').argParser(integer(1, 100_000)).default(1_000))
    .addOption(option('--heartbeat <ms>', 'silence after which subscribers hear that all is well', 'HEARTBEAT').argParser(integer(100, 60_000)).default(5_000))
    .addOption(option('--keep-bytes <size>', 'the log is kept below this size', 'KEEP_BYTES').argParser(bytes).default(10 * GB, '10GB'))
    .addOption(option('--keep-age <time>', 'transactions that are older may be removed', 'KEEP_AGE').argParser(duration).default(7 * 86_400_000, '7d'))
    .addOption(
      option('--consumer-keep-bytes <size>', 'a durable consumer keeps the log up to this size', 'CONSUMER_KEEP_BYTES').argParser(bytes).default(50 * GB, '50GB'),
    )
    .addOption(option('--segment-bytes <size>', 'size of a file of the log', 'SEGMENT_BYTES').argParser(bytes).default(64 * MB, '64MB'))
    .addOption(option('--idle-mark <ms>', 'how often the slot moves while there is nothing to log', 'IDLE_MARK').argParser(integer(10, 600_000)).default(10_000))
    .option('--json', 'log lines as JSON')
    .addOption(option('--log-level <level>', 'least level that is logged', 'LOG_LEVEL').choices(['debug', 'info', 'warn', 'error']).default('info'))
    .action(async (flags: Flags) => {
      const logger = createLogger({ component: 'cdc', json: flags.json ?? false, level: flags.logLevel })
      const stop = new AbortController()
      let asked = false
      const onSignal = () => {
        // Told twice: no more waiting for subscribers. The log is safe at any moment.
        if (asked) process.exit(1)
        asked = true
        stop.abort()
      }
      process.on('SIGINT', onSignal)
      process.on('SIGTERM', onSignal)
      try {
        await runCdcService(await serviceOptions(flags), opensslQuic(), logger, stop.signal, (address) => {
          // The first line on standard output is for whoever started us.
          process.stdout.write(`READY ${JSON.stringify({ host: address.host, port: address.port })}\n`)
        })
      } finally {
        process.off('SIGINT', onSignal)
        process.off('SIGTERM', onSignal)
      }
    })
}

async function serviceOptions(flags: Flags): Promise<CdcServiceOptions> {
  return {
    postgres: {
      socketDirectory: resolve(flags.socketDir),
      port: flags.postgresPort,
      user: flags.user,
      password: flags.passwordFile === undefined ? '' : await readPassword(flags.passwordFile),
      database: flags.database,
    },
    slot: flags.slot,
    publication: flags.publication,
    tables: flags.tables,
    directory: resolve(flags.data),
    newHistory: flags.newHistory ?? false,
    listen: { host: flags.listen, port: flags.port },
    tlsDirectory: resolve(flags.tlsDir),
    limits: {
      maxConnections: flags.maxConnections,
      maxConnectionsPerAddress: flags.maxConnections,
      maxStreamsPerConnection: 100,
      handshakeTimeoutMs: 10_000,
      idleTimeoutMs: 30_000,
    },
    maxSubscriptions: flags.maxSubscriptions,
    heartbeatMs: flags.heartbeat,
    windowBytes: 8 * MB,
    tailBytes: 16 * MB,
    segmentBytes: flags.segmentBytes,
    idleMarkMs: flags.idleMark,
    retention: { maxBytes: flags.keepBytes, maxAgeMs: flags.keepAge, maxConsumerBytes: flags.consumerKeepBytes },
    version,
  }
}

async function readPassword(path: string): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).trim()
  } catch (error) {
    throw new BeyondError('BAD_ARGUMENT', `Can't read the password file ${path}: ${(error as Error).message}`, { cause: error })
  }
}

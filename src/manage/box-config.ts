/**
 * What a box is told: flags and environment variables become one readonly object here, once, with all checks.
 * A flag wins over its variable, the variable over the default.
 */
import { BlockList, isIP } from 'node:net'
import { resolve } from 'node:path'
import { BeyondError } from '../errors.ts'
import { parseTableList, type TableSelection } from './table-selection.ts'

export type BoxConfig = {
  /** Absolute. */
  readonly dataDir: string
  /** True when nobody named the directory: then root may put it where its account can reach it. */
  readonly dataDirIsDefault: boolean
  /** Address for PgBouncer and QUIC; Postgres itself stays on loopback. */
  readonly listen: string
  readonly poolerPort: number
  readonly postgresPort: number
  readonly cdc: CdcConfig | undefined
  /** Logs as one JSON object per line. */
  readonly json: boolean
  /** Folder of postgres, initdb and psql; undefined: look in the usual places. */
  readonly postgresBinDir: string | undefined
  readonly pgbouncer: string | undefined
}

export type CdcConfig = {
  readonly database: string
  readonly tables: TableSelection
  readonly quicPort: number
}

/** Every setting, with the one line that `--help` shows. `flag` undefined: environment only. */
export const boxSettings = {
  data: { flag: '--data <dir>', env: 'BEYOND_PG_DATA', about: 'directory of all that the box keeps (default: ./.beyond)' },
  port: { flag: '--port <port>', env: 'BEYOND_PG_PORT', about: 'port of PgBouncer, where clients connect (default: 5432)' },
  postgresPort: {
    flag: '--postgres-port <port>',
    env: 'BEYOND_PG_POSTGRES_PORT',
    about: 'port of Postgres itself, on loopback only (default: 5433)',
  },
  quicPort: { flag: '--quic-port <port>', env: 'BEYOND_PG_QUIC_PORT', about: 'UDP port on which changes stream (default: 9443)' },
  listen: {
    flag: '--listen <address>',
    env: 'BEYOND_PG_LISTEN',
    about: 'IP address for PgBouncer and QUIC; off loopback PgBouncer requires TLS (default: 127.0.0.1)',
  },
  database: { flag: '--database <name>', env: 'BEYOND_PG_DATABASE', about: 'database whose changes stream (default: postgres)' },
  tables: {
    flag: '--tables <list>',
    env: 'BEYOND_PG_TABLES',
    about: 'tables whose changes stream, such as shop.orders,app.* (default: all)',
  },
  cdc: { flag: '--no-cdc', env: 'BEYOND_PG_NO_CDC', about: 'Postgres and PgBouncer only, without the change stream' },
  json: { flag: '--json', env: 'BEYOND_PG_JSON', about: 'logs as one JSON object per line' },
  postgresBinDir: { flag: undefined, env: 'BEYOND_PG_BINDIR', about: 'folder of the programs of Postgres 18' },
  pgbouncer: { flag: undefined, env: 'BEYOND_PGBOUNCER', about: 'the program PgBouncer' },
} as const

type BoxSetting = keyof typeof boxSettings
export type RawFlags = Readonly<Partial<Record<BoxSetting, string | boolean | undefined>>>
type Environment = Readonly<Record<string, string | undefined>>

/** Checks everything that can be checked without looking at the machine. Throws BAD_ARGUMENT. */
export function parseBoxConfig(flags: RawFlags, environment: Environment, workingDirectory: string): BoxConfig {
  /** The text of a setting and the name under which its author knows it. */
  const find = (setting: BoxSetting): { text: string; origin: string } | undefined => {
    const { flag, env } = boxSettings[setting]
    const given = flags[setting]
    if (typeof given === 'string') return { text: given, origin: flag?.split(' ')[0] ?? env }
    const text = environment[env]
    return text === undefined || text === '' ? undefined : { text, origin: env }
  }
  const text = (setting: BoxSetting): string | undefined => {
    const found = find(setting)
    if (found && !isPlainText(found.text)) throw bad(`${found.origin} must not be empty or hold control characters.`)
    return found?.text
  }
  const port = (setting: BoxSetting, otherwise: number): number => {
    const found = find(setting)
    if (!found) return otherwise
    const value = /^\d{1,5}$/.test(found.text) ? Number(found.text) : 0
    if (value < 1 || value > 65535) throw bad(`${found.origin} must be a port from 1 to 65535, not ${JSON.stringify(found.text)}.`)
    return value
  }
  const environmentFlag = (setting: BoxSetting): boolean => {
    const found = find(setting)
    if (!found || found.text === '0' || found.text === 'false') return false
    if (found.text === '1' || found.text === 'true') return true
    throw bad(`${found.origin} must be 1, true, 0 or false, not ${JSON.stringify(found.text)}.`)
  }

  const data = text('data')
  const config: BoxConfig = {
    dataDir: resolve(workingDirectory, data ?? '.beyond'),
    dataDirIsDefault: data === undefined,
    listen: address(find('listen')),
    poolerPort: port('port', 5432),
    postgresPort: port('postgresPort', 5433),
    cdc:
      flags.cdc === false || environmentFlag('cdc')
        ? undefined
        : { database: databaseName(text('database') ?? 'postgres'), tables: tables(find('tables')), quicPort: port('quicPort', 9443) },
    json: flags.json === true || environmentFlag('json'),
    postgresBinDir: text('postgresBinDir'),
    pgbouncer: text('pgbouncer'),
  }
  if (config.poolerPort === config.postgresPort) {
    throw bad(`PgBouncer and Postgres can't share port ${config.poolerPort}: give one of them another with --port or --postgres-port.`)
  }
  return config
}

/** Loopback addresses of both families. */
export function isLoopback(ip: string): boolean {
  const loopback = new BlockList()
  loopback.addSubnet('127.0.0.0', 8, 'ipv4')
  loopback.addAddress('::1', 'ipv6')
  return loopback.check(ip, isIP(ip) === 6 ? 'ipv6' : 'ipv4')
}

/** An address at which this machine reaches what listens on `listen`. */
export function localAddress(listen: string): string {
  if (listen === '0.0.0.0') return '127.0.0.1'
  return listen === '::' ? '::1' : listen
}

function address(found: { text: string; origin: string } | undefined): string {
  if (!found) return '127.0.0.1'
  if (found.text === 'localhost') return '127.0.0.1'
  if (isIP(found.text) && !found.text.includes('%')) return found.text
  throw bad(`${found.origin} must be an IP address of this machine (0.0.0.0 for all), not ${JSON.stringify(found.text)}.`)
}

function tables(found: { text: string; origin: string } | undefined): TableSelection {
  if (!found) return 'all'
  const parsed = parseTableList(found.text)
  if (parsed) return parsed
  throw bad(`${found.origin} must be a list such as shop.orders,app.* and not ${JSON.stringify(found.text)}.`)
}

function databaseName(name: string): string {
  // NAMEDATALEN - 1 bytes; Postgres would silently cut a longer name off.
  if (Buffer.byteLength(name) <= 63 && name !== 'template0' && name !== 'template1') return name
  throw bad(`${boxSettings.database.flag.split(' ')[0]} must be the name of a database of at most 63 bytes, not ${JSON.stringify(name)}.`)
}

// oxlint-disable-next-line no-control-regex -- control characters are what this looks for
const isPlainText = (text: string): boolean => text !== '' && !/[\u0000-\u001f\u007f]/.test(text)

const bad = (message: string): BeyondError => new BeyondError('BAD_ARGUMENT', message)

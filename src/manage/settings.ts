/**
 * Every setting of a box, defined once: its key, what it may be, its default, its effect, and what a change of it needs.
 * The same keys come from the metadata service, a file or the environment; docs/settings.md shows this very table.
 * Pure: texts go in, one typed object comes out, or the error that names key, value and what is allowed.
 */
import { isIP } from 'node:net'
import { BeyondError } from '../errors.ts'
import { type Lsn, parseLsn } from '../wal/lsn.ts'
import { type Conninfo, parseConninfo } from './conninfo.ts'
import { parseTableList, type TableSelection } from './table-selection.ts'

/**
 * What a change needs while the box runs. `live`: nothing, a reload applies it. `postgres`: a restart of Postgres alone, behind
 * a paused PgBouncer. `box`: a restart of the box.
 */
export type Need = 'live' | 'postgres' | 'box'

export type Tier = 'primary' | 'replica' | 'sink'

export type PitrTarget =
  | { readonly kind: 'immediate' }
  | { readonly kind: 'time'; readonly time: string }
  | { readonly kind: 'lsn'; readonly lsn: Lsn }
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'xid'; readonly xid: string }

export type RoleSetting = {
  readonly name: string
  readonly attributes: readonly RoleAttribute[]
  /** SCRAM-SHA-256 verifier, as Postgres stores it. */
  readonly verifier: string
}
export type RoleAttribute = (typeof ROLE_ATTRIBUTES)[number]
export type DatabaseSetting = { readonly name: string; readonly owner: string }
/** `database` undefined: every database that the settings name. */
export type ExtensionSetting = { readonly name: string; readonly database: string | undefined }

export type Definition<T> = {
  readonly env: `BEYOND_${string}`
  /** As commander writes it; undefined where there is none. */
  readonly flag?: string
  /** One line, for `--help` and docs/settings.md. */
  readonly about: string
  /** What is allowed, in words that complete "must be …". */
  readonly type: string
  readonly fallback: T
  /** The default in words, where its text does not say it. */
  readonly otherwise?: string
  readonly need: Need
  /** Its value is never shown. */
  readonly secret?: true
  /** Undefined when the text is not allowed. */
  readonly parse: (text: string) => T | undefined
}

const define = <T>(definition: Definition<T>): Definition<T> => definition

const ROLE_ATTRIBUTES = ['replication', 'createdb', 'createrole', 'bypassrls', 'superuser'] as const
const VERIFIER = /^SCRAM-SHA-256\$\d+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+$/
const SIZE = /^\d+(\.\d+)?\s*([kKMGT]i?B?|B)?$/
const DURATION = /^\d+(\.\d+)?\s*(ms|s|min|m|h|d)?$/

const PORT = { type: 'a port from 1 to 65535', parse: integer(1, 65_535), need: 'box' } as const
const SWITCH = { type: '1, true, 0 or false', fallback: false, parse: boolean } as const
const HANDED_ON = { fallback: undefined, need: 'box' } as const

export const boxSettings = {
  tier: define<Tier>({
    env: 'BEYOND_PG_TIER',
    type: 'primary, replica or sink',
    fallback: 'primary',
    otherwise: 'primary',
    need: 'box',
    about: 'what this box is; a volume of one tier is never taken for another (sink is refused: not in this version)',
    parse: (text) => (text === 'primary' || text === 'replica' || text === 'sink' ? text : undefined),
  }),
  primaryConninfo: define<Conninfo | undefined>({
    env: 'BEYOND_PG_PRIMARY_CONNINFO',
    type: 'a connection string of libpq with a host',
    fallback: undefined,
    need: 'live',
    secret: true,
    about: 'for a replica: how it reaches its primary, as a role with REPLICATION',
    parse: parseConninfo,
  }),
  walSink: define<readonly string[]>({
    env: 'BEYOND_PG_WAL_SINK',
    type: 'a list of https:// URLs, separated by commas',
    fallback: [],
    need: 'box',
    about: 'the sinks of which a majority must hold a commit before it is acknowledged',
    parse: (text) => list(text, (entry) => (URL.parse(entry)?.protocol === 'https:' ? entry : undefined)),
  }),
  walSinkTls: define<string | undefined>({
    env: 'BEYOND_PG_WAL_SINK_TLS',
    type: 'an absolute path',
    fallback: undefined,
    otherwise: 'the authority and the client certificate of the box itself',
    need: 'box',
    about: 'folder of ca.crt, client.crt and client.key, with which the box speaks to its sinks',
    parse: (text) => (text.startsWith('/') ? plainText(text) : undefined),
  }),
  pitrTarget: define<PitrTarget | undefined>({
    env: 'BEYOND_PG_PITR_TARGET',
    type: 'a time such as 2026-01-31T12:00:00Z, an LSN, name:NAME, xid:NUMBER or immediate',
    fallback: undefined,
    need: 'box',
    about: 'recover to this point, once (refused: not in this version)',
    parse: parsePitrTarget,
  }),
  ephemeral: define({
    ...SWITCH,
    env: 'BEYOND_VOLUME_EPHEMERAL',
    need: 'live',
    about: 'the volume may be lost: commits do not wait for the disk, autovacuum is throttled; not together with a replica or sinks',
  }),
  volumeMount: define<string | undefined>({
    env: 'BEYOND_VOLUME_MOUNT',
    type: 'an absolute path',
    fallback: undefined,
    need: 'box',
    about: 'the volume that must be mounted here before anything is made below it',
    parse: (text) => (text.startsWith('/') ? plainText(text) : undefined),
  }),
  memoryMb: define<number | undefined>({
    env: 'BEYOND_PG_MEMORY_MB',
    type: 'a number of megabytes from 128 to 16777216',
    fallback: undefined,
    otherwise: 'what the machine and its cgroup give',
    need: 'postgres',
    about: 'memory that Postgres is tuned for',
    parse: integer(128, 16_777_216),
  }),
  roles: define<readonly RoleSetting[]>({
    env: 'BEYOND_PG_ROLES',
    type: `a list of NAME=SCRAM-SHA-256$… with attributes as in NAME:replication=… (${ROLE_ATTRIBUTES.join(', ')}), separated by commas`,
    fallback: [],
    need: 'live',
    secret: true,
    about: 'roles that exist and log in with the password of their verifier; a verifier given here wins at every start',
    parse: (text) => unique(list(text, parseRole)),
  }),
  databases: define<readonly DatabaseSetting[]>({
    env: 'BEYOND_PG_DATABASES',
    type: 'a list of NAME or NAME=OWNER, separated by commas',
    fallback: [],
    need: 'live',
    about: 'databases that exist; made when missing, never dropped',
    parse: (text) => unique(list(text, parseDatabase)),
  }),
  extensions: define<readonly ExtensionSetting[]>({
    env: 'BEYOND_PG_EXTENSIONS',
    type: 'a list of NAME or NAME@DATABASE, separated by commas',
    fallback: [],
    need: 'live',
    about: 'extensions that are made, and updated, where they are installed; one that must be preloaded needs a restart of Postgres',
    parse: (text) => list(text, parseExtension),
  }),
  hooks: define<string | undefined>({
    env: 'BEYOND_PG_HOOKS',
    type: 'an absolute path',
    fallback: undefined,
    otherwise: '`hooks` in the data directory',
    need: 'box',
    about: 'folder of pre-start.d, post-start.d, pre-stop.d and pre-fork.d',
    parse: (text) => (text.startsWith('/') ? plainText(text) : undefined),
  }),
  hookSeconds: define<number>({
    env: 'BEYOND_PG_HOOK_SECONDS',
    type: 'a number of seconds from 1 to 3600',
    fallback: 60,
    need: 'live',
    about: 'how long one hook may take; then it is ended',
    parse: integer(1, 3600),
  }),
  data: define<string | undefined>({
    flag: '--data <dir>',
    env: 'BEYOND_PG_DATA',
    type: 'a path without control characters',
    fallback: undefined,
    otherwise: './.beyond',
    need: 'box',
    about: 'directory of all that the box keeps',
    parse: plainText,
  }),
  port: define<number>({ ...PORT, flag: '--port <port>', env: 'BEYOND_PG_PORT', fallback: 5432, about: 'port of PgBouncer, where clients connect' }),
  poolerWorkers: define<number | undefined>({
    env: 'BEYOND_PG_POOLER_WORKERS',
    type: 'a number from 1 to 64',
    fallback: undefined,
    otherwise: 'up to 4, and never more than there are processors',
    need: 'box',
    about: 'PgBouncer processes at most; one runs always, others come and go with the load',
    parse: integer(1, 64),
  }),
  postgresPort: define<number>({
    ...PORT,
    flag: '--postgres-port <port>',
    env: 'BEYOND_PG_POSTGRES_PORT',
    fallback: 5433,
    about: 'port of Postgres itself, on loopback only',
  }),
  quicPort: define<number>({ ...PORT, flag: '--quic-port <port>', env: 'BEYOND_PG_QUIC_PORT', fallback: 9443, about: 'UDP port on which changes stream' }),
  metricsPort: define<number | undefined>({
    ...PORT,
    flag: '--metrics-port <port>',
    env: 'BEYOND_PG_METRICS_PORT',
    fallback: undefined,
    otherwise: 'none',
    about: 'port of metrics for Prometheus over HTTP, on loopback only',
  }),
  listen: define<string>({
    flag: '--listen <address>',
    env: 'BEYOND_PG_LISTEN',
    type: 'an IP address of this machine (0.0.0.0 for all)',
    fallback: '127.0.0.1',
    need: 'box',
    about: 'IP address for PgBouncer and QUIC; off loopback PgBouncer requires TLS',
    parse: (text) => (text === 'localhost' ? '127.0.0.1' : isIP(text) && !text.includes('%') ? text : undefined),
  }),
  database: define<string>({
    flag: '--database <name>',
    env: 'BEYOND_PG_DATABASE',
    type: 'the name of a database, at most 63 bytes',
    fallback: 'postgres',
    need: 'box',
    about: 'database whose changes stream',
    parse: databaseName,
  }),
  tables: define<TableSelection>({
    flag: '--tables <list>',
    env: 'BEYOND_PG_TABLES',
    type: 'a list such as shop.orders,app.*',
    fallback: 'all',
    need: 'live',
    about: 'tables whose changes stream, such as shop.orders,app.*',
    parse: parseTableList,
  }),
  noCdc: define({ ...SWITCH, flag: '--no-cdc', env: 'BEYOND_PG_NO_CDC', need: 'box', about: 'Postgres and PgBouncer only, without the change stream' }),
  json: define({ ...SWITCH, flag: '--json', env: 'BEYOND_PG_JSON', need: 'box', about: 'logs as one JSON object per line' }),
  postgresBinDir: define<string | undefined>({
    env: 'BEYOND_PG_BINDIR',
    type: 'a path without control characters',
    fallback: undefined,
    otherwise: 'found by set-up, else `/usr/lib/postgresql/18/bin`',
    need: 'box',
    about: 'folder of the programs of Postgres 18',
    parse: plainText,
  }),
  pgbouncer: define<string | undefined>({
    env: 'BEYOND_PGBOUNCER',
    type: 'a path without control characters',
    fallback: undefined,
    otherwise: 'found by set-up, else on the path',
    need: 'box',
    about: 'the program PgBouncer',
    parse: plainText,
  }),
  cdcKeepBytes: define({ ...HANDED_ON, env: 'BEYOND_CDC_KEEP_BYTES', otherwise: '10GB', ...size(), about: 'the change log is kept below this size' }),
  cdcKeepAge: define({ ...HANDED_ON, env: 'BEYOND_CDC_KEEP_AGE', otherwise: '7d', ...duration(), about: 'transactions that are older may be removed from the change log' }),
  cdcConsumerKeepBytes: define({
    ...HANDED_ON,
    env: 'BEYOND_CDC_CONSUMER_KEEP_BYTES',
    otherwise: '50GB',
    ...size(),
    about: 'a durable consumer keeps the change log up to this size',
  }),
  cdcSegmentBytes: define({ ...HANDED_ON, env: 'BEYOND_CDC_SEGMENT_BYTES', otherwise: '64MB', ...size(), about: 'size of a file of the change log' }),
  cdcMaxConnections: define({ ...HANDED_ON, env: 'BEYOND_CDC_MAX_CONNECTIONS', otherwise: '1000', ...count(1, 100_000), about: 'connections of subscribers at once' }),
  cdcMaxSubscriptions: define({ ...HANDED_ON, env: 'BEYOND_CDC_MAX_SUBSCRIPTIONS', otherwise: '1000', ...count(1, 100_000), about: 'subscriptions at once' }),
  cdcHeartbeat: define({
    ...HANDED_ON,
    env: 'BEYOND_CDC_HEARTBEAT',
    otherwise: '5000',
    ...count(100, 60_000),
    about: 'milliseconds of silence after which subscribers hear that all is well',
  }),
  cdcIdleMark: define({
    ...HANDED_ON,
    env: 'BEYOND_CDC_IDLE_MARK',
    otherwise: '10000',
    ...count(10, 600_000),
    about: 'milliseconds between two moves of the slot while there is nothing to log',
  }),
  cdcLogLevel: define({
    ...HANDED_ON,
    env: 'BEYOND_CDC_LOG_LEVEL',
    otherwise: 'info',
    type: 'debug, info, warn or error',
    parse: (text: string) => (['debug', 'info', 'warn', 'error'].includes(text) ? text : undefined),
    about: 'least level that the change stream logs',
  }),
} as const

export type SettingName = keyof typeof boxSettings
export type BoxSettings = { readonly [Name in SettingName]: (typeof boxSettings)[Name] extends Definition<infer T> ? T : never }

/** One value as it was found. `origin` completes the key in an error: `--port`, `BEYOND_PG_PORT in /etc/box.conf`. */
export type GivenSetting = { readonly text: string; readonly origin: string }
export type GivenSettings = Readonly<Record<string, GivenSetting>>

/** Variables of the same prefix that belong to set-up, hooks, sinks and tests, not to the box. */
const NOT_OURS = /^BEYOND_(PG_CACHE$|PG_MIRROR$|HOOK$|SINK_|TEST_)/

/** Checks each value alone, and that there is no key that nobody knows. Throws BAD_ARGUMENT. */
export function parseSettings(given: GivenSettings): BoxSettings {
  const byKey = new Map(Object.values(boxSettings).map((definition) => [definition.env as string, definition]))
  for (const [key, { text, origin }] of Object.entries(given)) {
    if (byKey.has(key) || NOT_OURS.test(key)) continue
    const shown = /PASS|SECRET|KEY|TOKEN/.test(key) ? '(hidden)' : show(text)
    throw bad(`${origin} (${shown}) is no setting${suggestion(key, [...byKey.keys()])}.`)
  }
  const entries = Object.entries(boxSettings) as [SettingName, Definition<unknown>][]
  return Object.fromEntries(entries.map(([name, definition]) => [name, valueOf(definition, given[definition.env])])) as BoxSettings
}

function valueOf(definition: Definition<unknown>, given: GivenSetting | undefined): unknown {
  if (!given) return definition.fallback
  const value = definition.parse(given.text)
  if (value !== undefined) return value
  throw bad(`${given.origin} must be ${definition.type}, not ${definition.secret ? 'what it is' : show(given.text)}.`)
}

/** The line of `--help`: effect, default, key. */
export function helpLine({ about, env, fallback, otherwise }: Definition<unknown>): string {
  const text = otherwise ?? (fallback === undefined || fallback === false ? undefined : String(fallback))
  return `${about}${text === undefined ? '' : ` (default: ${text})`} [${env}]`
}

export type SettingChange = { readonly key: string; readonly need: Need }

/** Which settings differ, and what each needs to take effect. */
export function changedSettings(before: BoxSettings, after: BoxSettings): readonly SettingChange[] {
  return (Object.keys(boxSettings) as SettingName[])
    .filter((name) => JSON.stringify(before[name], plain) !== JSON.stringify(after[name], plain))
    .map((name) => ({ key: boxSettings[name].env, need: boxSettings[name].need }))
}

const plain = (_key: string, value: unknown): unknown => (typeof value === 'bigint' ? String(value) : value)

/** The settings that the CDC service reads itself, checked here and handed on. */
export function cdcEnvironment(settings: BoxSettings): Readonly<Record<string, string>> {
  const entries = Object.entries(boxSettings) as [SettingName, Definition<unknown>][]
  return Object.fromEntries(
    entries.flatMap(([name, { env }]) => (env.startsWith('BEYOND_CDC_') && settings[name] !== undefined ? [[env, String(settings[name])]] : [])),
  )
}

function suggestion(key: string, known: readonly string[]): string {
  const [nearest] = known.map((name) => ({ name, steps: editDistance(key, name) })).toSorted((a, b) => a.steps - b.steps)
  return nearest.steps <= 4 ? `: did you mean ${nearest.name}?` : ': docs/settings.md lists them'
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_value, at) => at)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1))
    row = next
  }
  return row[b.length]
}

function integer(least: number, most: number): (text: string) => number | undefined {
  return (text) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : -1
    return value >= least && value <= most ? value : undefined
  }
}

function boolean(text: string): boolean | undefined {
  if (text === '1' || text === 'true') return true
  return text === '0' || text === 'false' ? false : undefined
}

function count(least: number, most: number): Pick<Definition<number | undefined>, 'type' | 'parse'> {
  return { type: `a number from ${least} to ${most}`, parse: integer(least, most) }
}

function size(): Pick<Definition<string | undefined>, 'type' | 'parse'> {
  return { type: 'a size such as 10GB', parse: (text) => (SIZE.test(text) ? text : undefined) }
}

function duration(): Pick<Definition<string | undefined>, 'type' | 'parse'> {
  return { type: 'a time such as 7d', parse: (text) => (DURATION.test(text) ? text : undefined) }
}

// oxlint-disable-next-line no-control-regex -- control characters are what this looks for
const isPlainText = (text: string): boolean => text !== '' && !/[\u0000-\u001f\u007f]/.test(text)

function plainText(text: string): string | undefined {
  return isPlainText(text) ? text : undefined
}

/** NAMEDATALEN - 1 bytes; Postgres would silently cut a longer name off. */
const isName = (text: string): boolean => isPlainText(text) && Buffer.byteLength(text) <= 63

function databaseName(text: string): string | undefined {
  return isName(text) && text !== 'template0' && text !== 'template1' ? text : undefined
}

function list<T>(text: string, parse: (entry: string) => T | undefined): readonly T[] | undefined {
  const entries = text.split(',').map((entry) => parse(entry.trim()))
  return entries.some((entry) => entry === undefined) ? undefined : (entries as T[])
}

function unique<T extends { readonly name: string }>(entries: readonly T[] | undefined): readonly T[] | undefined {
  return entries && new Set(entries.map((entry) => entry.name)).size === entries.length ? entries : undefined
}

/** Names that lists can hold without quoting. */
const PLAIN_NAME = '[A-Za-z_][\\w$-]*'
const ROLE = new RegExp(`^(${PLAIN_NAME})((?::[a-z]+)*)=(.*)$`)
const DATABASE = new RegExp(`^(${PLAIN_NAME})(?:=(${PLAIN_NAME}))?$`)
const EXTENSION = new RegExp(`^(${PLAIN_NAME})(?:@(${PLAIN_NAME}))?$`)

function parseRole(text: string): RoleSetting | undefined {
  const [, name, suffix, verifier] = ROLE.exec(text) ?? []
  if (!name || !isName(name) || /^(beyond_|pg_)/.test(name) || !VERIFIER.test(verifier)) return undefined
  const attributes = suffix.split(':').slice(1)
  return attributes.every(isRoleAttribute) ? { name, attributes, verifier } : undefined
}

const isRoleAttribute = (text: string): text is RoleAttribute => (ROLE_ATTRIBUTES as readonly string[]).includes(text)

function parseDatabase(text: string): DatabaseSetting | undefined {
  const [, name, owner = 'postgres'] = DATABASE.exec(text) ?? []
  return name && databaseName(name) && isName(owner) ? { name, owner } : undefined
}

function parseExtension(text: string): ExtensionSetting | undefined {
  const [, name, database] = EXTENSION.exec(text) ?? []
  return name && isName(name) ? { name, database } : undefined
}

function parsePitrTarget(text: string): PitrTarget | undefined {
  if (text === 'immediate') return { kind: 'immediate' }
  const lsn = parseLsn(text)
  if (lsn !== undefined) return { kind: 'lsn', lsn }
  const name = /^name:(.{1,63})$/.exec(text)?.[1]
  if (name !== undefined) return isName(name) ? { kind: 'name', name } : undefined
  const xid = /^xid:(\d{1,20})$/.exec(text)?.[1]
  if (xid !== undefined) return { kind: 'xid', xid }
  // With its zone: a time of day of nobody knows where is how the wrong hour gets restored.
  const time = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?\s?(Z|UTC|[+-]\d\d(:?\d\d)?)$/.test(text)
  return time ? { kind: 'time', time: text } : undefined
}

function show(text: string): string {
  return JSON.stringify(text.length > 100 ? `${text.slice(0, 100)}…` : text)
}

const bad = (message: string): BeyondError => new BeyondError('BAD_ARGUMENT', message)

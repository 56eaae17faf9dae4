/**
 * The config files of Postgres, as text. They lie outside of the data directory, in a folder that the account of Postgres
 * can read but not write, in layers: 00 is fixed by us, 01 follows the machine, 99 is the user's and never touched.
 * Source: https://www.postgresql.org/docs/18/config-setting.html
 */
export type Settings = Readonly<Record<string, string | number | boolean>>

export type ImageOptions = {
  readonly port: number
  readonly socketDirectory: string
  readonly hbaFile: string
  readonly identFile: string
}

/** The settings that the rest of the box relies on. */
export function imageSettings({ port, socketDirectory, hbaFile, identFile }: ImageOptions): Settings {
  return {
    listen_addresses: '127.0.0.1',
    port,
    unix_socket_directories: socketDirectory,
    unix_socket_permissions: '0700',
    hba_file: hbaFile,
    ident_file: identFile,
    password_encryption: 'scram-sha-256',
    wal_level: 'logical',
    max_wal_senders: 10,
    max_replication_slots: 10,
    timezone: 'UTC',
    log_timezone: 'UTC',
    // The levels of log lines are read by our parser, so they stay English.
    lc_messages: 'C',
    log_destination: 'stderr',
    logging_collector: false,
    log_line_prefix: '%m [%p] %e ',
    // A statement may hold a password: ALTER ROLE … PASSWORD.
    log_statement: 'none',
    cluster_name: 'beyond-pg',
  }
}

/** The layers that the box writes; all else in conf.d is the user's. */
export const OWN_LAYERS: readonly string[] = ['00-image.conf', '01-tuning.conf', '02-durability.conf', '03-replication.conf']
export const USER_LAYER = '99-user.conf'

const HEAD = '# Written by beyond-pg at every start. Your settings belong in conf.d/99-user.conf.'

/** The main file: nothing but the layers. */
export function mainConfig(): string {
  return `${HEAD}\ninclude_dir 'conf.d'\n`
}

/** The main file while the user's settings can't be used. */
export function ownLayersConfig(): string {
  return [HEAD, '# 99-user.conf is left out: Postgres does not start with it.', ...OWN_LAYERS.map((name) => `include_if_exists 'conf.d/${name}'`), ''].join('\n')
}

/** What is promised about a commit, and what is spared where nothing is promised. */
export function durabilitySettings({ ephemeral }: { ephemeral: boolean }): Settings {
  // Always with fsync and full_page_writes: the volume of an ephemeral box is snapshotted and forked, and must be whole.
  return { fsync: true, full_page_writes: true, synchronous_commit: ephemeral ? 'off' : 'on' }
}

export type ReplicationOptions = {
  /** Of the volume that holds pg_wal, in bytes. */
  readonly volumeBytes: number
  readonly replica:
    | {
        /** Without its password. */
        readonly conninfo: string
        readonly slot: string
        /** What the primary has: Postgres does not replay with less. */
        readonly primaryLimits: Settings
      }
    | undefined
}

const MB = 1024 * 1024

/** Slots, and for a replica where its WAL comes from. */
export function replicationSettings({ volumeBytes, replica }: ReplicationOptions): Settings {
  return {
    // A slot that nobody reads must not fill the volume: beyond this it is given up, not the database.
    max_slot_wal_keep_size: `${Math.max(512, Math.floor(volumeBytes / 3 / MB))}MB`,
    hot_standby: true,
    ...(replica
      ? {
          primary_conninfo: replica.conninfo,
          primary_slot_name: replica.slot,
          hot_standby_feedback: true,
          wal_receiver_status_interval: '1s',
          wal_receiver_timeout: '20s',
          ...replica.primaryLimits,
        }
      : {}),
  }
}

export function userConfig(): string {
  return '# Yours: what stands here wins over the other layers, and beyond-pg never touches this file again.\n'
}

/** One layer. Every value is quoted; a quote is doubled, a backslash too. */
export function renderSettings(title: string, settings: Settings): string {
  const lines = Object.entries(settings).map(([name, value]) => `${name} = ${quote(settingText(value))}`)
  return [`# ${title}`, '# Written by beyond-pg at every start; your settings belong in 99-user.conf.', ...lines, ''].join('\n')
}

export type PeerAccount = { readonly system: string; readonly role: string }

/**
 * Passwords everywhere, on sockets and loopback too: no line trusts anybody. The box itself comes in as what the kernel says it is,
 * so that it gets into a database whose passwords are another box's: a replica's, a restored one's.
 */
export function hbaConfig(peers: readonly PeerAccount[] = [], more: readonly string[] = []): string {
  const rows = [
    ['local', 'all', 'all', ''],
    ['local', 'replication', 'all', ''],
    ['host', 'all', 'all', '127.0.0.1/32'],
    ['host', 'replication', 'all', '127.0.0.1/32'],
  ]
  return [
    '# Written by beyond-pg at every start.',
    ...[...new Set(peers.map(({ role }) => role))].map((role) => `local\tall\t${role}\t\tpeer map=${PEER_MAP}`),
    ...rows.map(([type, database, user, address]) => `${type}\t${database}\t${user}\t${address}\tscram-sha-256`),
    ...more,
    '',
  ].join('\n')
}

const PEER_MAP = 'box'

/** Which account of this machine is which role. */
export function identConfig(peers: readonly PeerAccount[]): string {
  return ['# Written by beyond-pg at every start.', ...peers.map(({ system, role }) => `${PEER_MAP}\t${system}\t${role}`), ''].join('\n')
}

function settingText(value: string | number | boolean): string {
  return typeof value === 'boolean' ? (value ? 'on' : 'off') : String(value)
}

const quote = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`

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

/** The main file: nothing but the layers. */
export function mainConfig(): string {
  return `# Written by beyond-pg at every start. Your settings belong in conf.d/99-user.conf.\ninclude_dir 'conf.d'\n`
}

export function userConfig(): string {
  return '# Yours: what stands here wins over the other layers, and beyond-pg never touches this file again.\n'
}

/** One layer. Every value is quoted; a quote is doubled, a backslash too. */
export function renderSettings(title: string, settings: Settings): string {
  const lines = Object.entries(settings).map(([name, value]) => `${name} = ${quote(settingText(value))}`)
  return [`# ${title}`, '# Written by beyond-pg at every start; your settings belong in 99-user.conf.', ...lines, ''].join('\n')
}

/** Passwords everywhere, on sockets and loopback too: no line trusts anybody. */
export function hbaConfig(): string {
  const rows = [
    ['local', 'all', 'all', ''],
    ['local', 'replication', 'all', ''],
    ['host', 'all', 'all', '127.0.0.1/32'],
    ['host', 'replication', 'all', '127.0.0.1/32'],
  ]
  return [
    '# Written by beyond-pg at every start.',
    ...rows.map(([type, database, user, address]) => `${type}\t${database}\t${user}\t${address}\tscram-sha-256`),
    '',
  ].join('\n')
}

function settingText(value: string | number | boolean): string {
  return typeof value === 'boolean' ? (value ? 'on' : 'off') : String(value)
}

const quote = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`

/**
 * PgBouncer's config files, as text: what all workers share, and what each has besides. Any role logs in to any database: PgBouncer asks Postgres for the role's SCRAM verifier,
 * and logs in to Postgres with the keys that it saw in the client's own login.
 * Source: https://www.pgbouncer.org/config.html
 */
import { isLoopback } from './box-config.ts'
import { RESERVED_CONNECTIONS } from './tuning.ts'

export type PoolerOptions = {
  readonly listen: string
  readonly port: number
  readonly postgresPort: number
  readonly socketDirectory: string
  readonly authFile: string
  readonly certificate: string
  readonly key: string
  readonly maxConnections: number
  readonly openFiles: number
  /** Workers that may run at once: each has its share of the connections to Postgres. One by default. */
  readonly workers?: number
}

const MAX_CLIENTS = 1000

export function poolerConfig(options: PoolerOptions): string {
  const share = Math.max(1, Math.floor((options.maxConnections - RESERVED_CONNECTIONS) / (options.workers ?? 1)))
  // Of one role in one database: half of them, so that one busy application does not shut out the others.
  const poolSize = Math.min(share, Math.max(10, Math.floor(share / 2)))
  const settings: Record<string, string | number> = {
    listen_addr: options.listen,
    listen_port: options.port,
    so_reuseport: 1,
    pool_mode: 'transaction',
    max_prepared_statements: 200,
    auth_type: 'scram-sha-256',
    auth_file: options.authFile,
    auth_user: 'beyond_pooler',
    // The supervisor's own login to the console: PAUSE and RESUME around a restart of Postgres.
    admin_users: 'beyond_pooler',
    // Without a database of its own the query would run in the client's, where the function does not exist.
    auth_dbname: 'postgres',
    auth_query: 'SELECT name, secret FROM beyond_pooler.lookup($1)',
    client_tls_sslmode: isLoopback(options.listen) ? 'allow' : 'require',
    client_tls_cert_file: options.certificate,
    client_tls_key_file: options.key,
    max_client_conn: maxClients(options),
    default_pool_size: poolSize,
    max_db_connections: share,
    // A restart of Postgres takes a second, not the fifteen that a failed login is remembered by default.
    server_login_retry: 1,
    query_wait_timeout: 60,
    // Postgres 18 reports search_path, so each client keeps its own.
    track_extra_parameters: 'IntervalStyle, search_path',
    ignore_startup_parameters: 'extra_float_digits',
    log_connections: 0,
    log_disconnections: 0,
    log_stats: 0,
  }
  return [
    '; Written by beyond-pg at every start.',
    '[databases]',
    `* = host=${options.socketDirectory} port=${options.postgresPort}`,
    // What replicas and sinks call the database they need none of. PgBouncer opens ordinary connections of that pool too: to a real one.
    `replication = host=${options.socketDirectory} port=${options.postgresPort} dbname=postgres`,
    '[pgbouncer]',
    ...Object.entries(settings).map(([name, value]) => `${name} = ${value}`),
    '',
  ].join('\n')
}

export type WorkerOptions = {
  /** Counted from 1. */
  readonly number: number
  /** The folder of the Unix socket of each worker that may ever run, in their order. */
  readonly socketDirectories: readonly string[]
  readonly port: number
  /** What all workers share: the text of `poolerConfig`. */
  readonly shared: string
}

/**
 * A cancel request names the worker that it is for by its number, and goes there over that one's Unix socket. One whole file: a section
 * that is opened again, after %include for instance, falls back to defaults.
 */
export function workerConfig({ number, socketDirectories, port, shared }: WorkerOptions): string {
  return [
    shared.trimEnd(), // its last section is [pgbouncer]
    `peer_id = ${number}`,
    `unix_socket_dir = ${socketDirectories[number - 1]}`,
    '[peers]',
    ...socketDirectories.map((directory, at) => `${at + 1} = host=${directory} port=${port}`),
    '',
  ].join('\n')
}

/** The pooler's own login; all other roles are looked up. */
export function userList(password: string): string {
  return `"beyond_pooler" "${password}"\n`
}

/** PgBouncer needs a file for each client, each server connection, and some for itself. */
export function maxClients({ openFiles, maxConnections }: { openFiles: number; maxConnections: number }): number {
  return Math.max(50, Math.min(MAX_CLIENTS, openFiles - maxConnections - 100))
}

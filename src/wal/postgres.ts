/** How the services reach their Postgres, and what its errors mean to us. */
import pg from 'pg'
import { BeyondError, type ErrorCode } from '../errors.ts'

/** The Unix socket is half the cost of loopback TCP for replication, and no network reaches it. */
export type PostgresAddress = {
  readonly socketDirectory: string
  readonly port: number
  readonly user: string
  readonly password: string
  readonly database: string
}

/** https://www.postgresql.org/docs/18/errcodes-appendix.html */
const SQLSTATE = {
  objectInUse: '55006',
  undefinedObject: '42704',
  objectNotInPrerequisiteState: '55000',
  cannotConnectNow: '57P03',
  adminShutdown: '57P01',
  crashShutdown: '57P02',
  tooManyConnections: '53300',
  invalidPassword: '28P01',
  undefinedFile: '58P01',
} as const

const BY_STATE: Partial<Record<string, ErrorCode>> = {
  [SQLSTATE.objectInUse]: 'SLOT_ACTIVE',
  [SQLSTATE.undefinedObject]: 'SLOT_LOST',
  // "can no longer access replication slot": invalidated (max_slot_wal_keep_size, idle_replication_slot_timeout, wal_level).
  [SQLSTATE.objectNotInPrerequisiteState]: 'SLOT_LOST',
  // "requested WAL segment … has already been removed"
  [SQLSTATE.undefinedFile]: 'SLOT_LOST',
  [SQLSTATE.cannotConnectNow]: 'POSTGRES_UNAVAILABLE',
  [SQLSTATE.adminShutdown]: 'POSTGRES_UNAVAILABLE',
  [SQLSTATE.crashShutdown]: 'POSTGRES_UNAVAILABLE',
  [SQLSTATE.tooManyConnections]: 'POSTGRES_UNAVAILABLE',
}

/** A server's or a socket's error as ours, by SQLSTATE. Text is never matched. */
export function fromPostgres(error: unknown, doing: string): BeyondError {
  if (error instanceof BeyondError) return error
  if (error instanceof pg.DatabaseError) {
    const code = BY_STATE[error.code ?? ''] ?? 'POSTGRES_REFUSED'
    return new BeyondError(code, `Postgres refused ${doing}: ${error.message}${error.hint ? ` (${error.hint})` : ''}`, { cause: error, facts: { sqlstate: error.code } })
  }
  const { message } = error as Error
  return new BeyondError('POSTGRES_UNAVAILABLE', `No connection to Postgres for ${doing}: ${message}`, { cause: error })
}

/** Runs `work` with a connection of its own, which is ended whatever happens. */
export async function withPostgres<T>(address: PostgresAddress, doing: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({
    host: address.socketDirectory,
    port: address.port,
    user: address.user,
    password: address.password,
    database: address.database,
    application_name: 'beyond-pg-cdc',
    connectionTimeoutMillis: 10_000,
    query_timeout: 30_000,
  })
  client.on('error', () => {})
  try {
    await client.connect()
    return await work(client)
  } catch (error) {
    throw fromPostgres(error, doing)
  } finally {
    await client.end().catch(() => {})
  }
}

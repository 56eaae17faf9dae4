/** Short-lived connections of the supervisor itself: each with deadlines, each closed by whoever opened it. */
import { Client } from 'pg'

export type DatabaseAddress = {
  /** Folder of the Unix socket, or an address. */
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  readonly database: string
  /** The authority of the server's certificate; undefined for connections without TLS. */
  readonly ca?: string
}

const CONNECT_MS = 5_000

/** Connects, runs `work`, closes. No statement takes longer than `deadlineMs`. */
export async function withDatabase<T>(address: DatabaseAddress, deadlineMs: number, work: (client: Client) => Promise<T>): Promise<T> {
  const { ca, ...options } = address
  const client = new Client({
    ...options,
    application_name: 'beyond-pg',
    connectionTimeoutMillis: CONNECT_MS,
    query_timeout: deadlineMs,
    ...(ca === undefined ? {} : { ssl: { ca } }),
  })
  client.on('error', () => undefined) // the query in flight reports it
  try {
    await client.connect()
    return await work(client)
  } finally {
    await client.end().catch(() => undefined)
  }
}

/** The SQLSTATE of an error that Postgres or PgBouncer sent. */
export function sqlStateOf(error: unknown): string | undefined {
  const { code } = (error ?? {}) as { code?: unknown }
  return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : undefined
}

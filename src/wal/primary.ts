/**
 * What a sink asks of a primary before it takes WAL from it, in the replication protocol: a connection that pg_hba admits
 * for replication is enough, and no database is needed.
 * Source: https://www.postgresql.org/docs/18/protocol-replication.html
 */
import { readFile } from 'node:fs/promises'
import { isIP } from 'node:net'
import type { ConnectionOptions } from 'node:tls'
import pg from 'pg'
import { BeyondError } from '../errors.ts'
import { lsnFromServer, type Lsn } from './lsn.ts'
import { fromPostgres } from './postgres.ts'
import { isSegmentSize } from './segment-name.ts'
import { historyFileName, toTimeline, type Timeline } from './timeline.ts'

export type PrimaryIdentity = {
  readonly systemId: bigint
  readonly timeline: Timeline
  /** End of the WAL that it has on disk. */
  readonly flushed: Lsn
  readonly segmentBytes: number
}

/** `restart`: undefined while the slot reserves no WAL. */
export type PhysicalSlot = { readonly restart: Lsn | undefined }

const CONNECT_MS = 5_000
const QUERY_MS = 10_000

type Row = Readonly<Record<string, string | null>>

export class Primary {
  readonly #client: pg.Client

  private constructor(client: pg.Client) {
    this.#client = client
  }

  static async connect(conninfo: Readonly<Record<string, string>>, name: string): Promise<Primary> {
    const config: pg.ClientConfig & { replication: string } = {
      host: conninfo['hostaddr'] ?? conninfo['host'],
      port: Number(conninfo['port'] ?? 5432),
      user: conninfo['user'],
      password: conninfo['password'] ?? '',
      database: 'replication',
      application_name: `${name}-check`,
      ssl: await tlsOptions(conninfo),
      connectionTimeoutMillis: CONNECT_MS,
      query_timeout: QUERY_MS,
      replication: 'true',
    }
    const client = new pg.Client(config)
    client.on('error', () => {})
    try {
      await client.connect()
    } catch (error) {
      await client.end().catch(() => {})
      throw fromPostgres(error, 'looking at the primary')
    }
    return new Primary(client)
  }

  async #rows(command: string): Promise<Row[]> {
    try {
      const { rows } = await this.#client.query<Row>({ text: command, types: { getTypeParser: () => (text: string) => text } as never })
      return rows
    } catch (error) {
      throw fromPostgres(error, command)
    }
  }

  async identify(): Promise<PrimaryIdentity> {
    const [system] = await this.#rows('IDENTIFY_SYSTEM')
    const [size] = await this.#rows('SHOW wal_segment_size')
    const match = /^(\d+)(kB|MB|GB)$/.exec(size['wal_segment_size'] ?? '')
    const segmentBytes = match ? Number(match[1]) * 1024 ** (['kB', 'MB', 'GB'].indexOf(match[2]) + 1) : 0
    const timeline = toTimeline(Number(system['timeline']))
    if (!isSegmentSize(segmentBytes) || !timeline) throw new BeyondError('BAD_REPLICATION_DATA', 'The primary tells no segment size or timeline that we know.')
    return { systemId: BigInt(system['systemid'] ?? 0), timeline, flushed: lsnFromServer(system['xlogpos'] ?? ''), segmentBytes }
  }

  async slot(name: string): Promise<PhysicalSlot | undefined> {
    const [slot] = await this.#rows(`READ_REPLICATION_SLOT ${identifier(name)}`)
    if (!slot || slot['slot_type'] === null) return undefined
    return { restart: slot['restart_lsn'] === null ? undefined : lsnFromServer(slot['restart_lsn']) }
  }

  /** One that holds WAL back from now on, not only from the first confirmation. */
  async createSlot(name: string): Promise<void> {
    await this.#rows(`CREATE_REPLICATION_SLOT ${identifier(name)} PHYSICAL (RESERVE_WAL true)`)
  }

  /** undefined: the server no longer has it. Timeline 1 has none. */
  async history(timeline: Timeline): Promise<Buffer | undefined> {
    try {
      const [row] = await this.#rows(`TIMELINE_HISTORY ${timeline}`)
      if (row['filename'] !== historyFileName(timeline)) throw new BeyondError('BAD_REPLICATION_DATA', `The primary sent another history than that of timeline ${timeline}.`)
      const content = row['content'] ?? ''
      return content.startsWith(String.raw`\x`) ? Buffer.from(content.slice(2), 'hex') : Buffer.from(content)
    } catch (error) {
      // "could not open file"
      if ((error as BeyondError).facts?.['sqlstate'] === '58P01') return undefined
      throw error
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client.end().catch(() => {})
  }
}

const identifier = (name: string): string => `"${name.replaceAll('"', '""')}"`

/** As libpq understands the same keywords, save that what it would try both ways is tried without TLS. */
async function tlsOptions({ host, sslmode, sslrootcert, sslcert, sslkey }: Readonly<Record<string, string>>): Promise<ConnectionOptions | false> {
  if (!sslmode || host?.startsWith('/') || ['disable', 'allow', 'prefer'].includes(sslmode)) return false
  const [ca, cert, key] = await Promise.all([sslrootcert, sslcert, sslkey].map((path) => (path === undefined ? undefined : readFile(path))))
  return {
    ...(ca && { ca }),
    ...(cert && { cert }),
    ...(key && { key }),
    // An address is no server name, and is checked all the same.
    ...(host && (isIP(host) ? { host } : { servername: host })),
    rejectUnauthorized: sslmode !== 'require',
    ...(sslmode === 'verify-full' ? {} : { checkServerIdentity: () => undefined }),
  }
}

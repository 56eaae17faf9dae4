/**
 * The consoles of all PgBouncer workers at once: hold queries back while Postgres restarts, and let them go again.
 * Source: https://www.pgbouncer.org/usage.html#admin-console
 */
import { Client } from 'pg'
import type { DatabaseAddress } from './database-client.ts'

/** Of one worker: its Unix socket or its port, and a role of admin_users. */
export type ConsoleAddress = Omit<DatabaseAddress, 'database'>

const CONNECT_MS = 3_000
const ANSWER_MS = 5_000

export class PoolerConsole {
  readonly #workers: () => readonly ConsoleAddress[]

  /** `workers` says which ones run now. */
  constructor(workers: () => readonly ConsoleAddress[]) {
    this.#workers = workers
  }

  /**
   * From now on queries wait within the pooler, and its connections to Postgres are closed as their transactions end. True when the
   * last one is closed. False when transactions still ran after `withinMs`, or `signal` aborted: then everything goes on as before.
   */
  async pause(withinMs: number, signal: AbortSignal): Promise<boolean> {
    const clients = await this.#connect()
    try {
      const limit = AbortSignal.any([signal, AbortSignal.timeout(withinMs)])
      const paused = Promise.all(clients.map((client) => client.query('PAUSE'))).then(() => true)
      paused.catch(() => undefined)
      if (await Promise.race([paused, aborted(limit).then(() => false)])) return true
      await this.resume()
      return false
    } catch (error) {
      await this.resume().catch(() => undefined) // one worker may hold its queries while another refused
      throw error
    } finally {
      await close(clients)
    }
  }

  /** Whether somebody holds queries back, an operator for instance. */
  async isPaused(): Promise<boolean> {
    const clients = await this.#connect({ query_timeout: ANSWER_MS })
    try {
      const states = await Promise.all(clients.map((client) => client.query<{ key: string; value: string }>('SHOW STATE')))
      return states.some(({ rows }) => rows.some(({ key, value }) => key === 'paused' && value === 'yes'))
    } finally {
      await close(clients)
    }
  }

  /** Lets all queries go. Harmless where nothing is paused. Rejects while a worker can't be reached. */
  async resume(): Promise<void> {
    const clients = await this.#connect({ query_timeout: ANSWER_MS })
    try {
      await Promise.all(clients.map((client) => client.query('RESUME').catch(ignoreNotPaused)))
    } finally {
      await close(clients)
    }
  }

  async #connect(limits: { query_timeout?: number } = {}): Promise<readonly Client[]> {
    const clients = this.#workers().map((address) => {
      const { ca, ...options } = address
      const ssl = ca === undefined ? {} : { ssl: { ca } }
      const client = new Client({ ...options, ...ssl, ...limits, database: 'pgbouncer', connectionTimeoutMillis: CONNECT_MS })
      client.on('error', () => undefined) // the command in flight reports it
      return client
    })
    try {
      await Promise.all(clients.map((client) => client.connect()))
      return clients
    } catch (error) {
      await close(clients)
      throw error
    }
  }
}

async function close(clients: readonly Client[]): Promise<void> {
  await Promise.all(clients.map((client) => client.end().catch(() => undefined)))
}

/** PgBouncer has no codes for its console, so this is the one message that is looked at. */
function ignoreNotPaused(error: Error): void {
  if (!/not paused|already/i.test(error.message)) throw error
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => (signal.aborted ? resolve() : signal.addEventListener('abort', () => resolve(), { once: true })))
}

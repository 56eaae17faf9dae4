/**
 * The logical slot and its publication: created when missing, looked at before each start.
 * Source: https://www.postgresql.org/docs/18/view-pg-replication-slots.html
 */
import type { Client } from 'pg'
import { BeyondError } from '../errors.ts'
import { lsnFromServer, type Lsn } from './lsn.ts'

export type ServerState = {
  readonly systemId: string
  /** End of the WAL that is flushed to disk. */
  readonly walLsn: Lsn
  /** `active`: somebody reads it, and may still move it. */
  readonly slot: { readonly confirmed: Lsn; readonly lost: string | undefined; readonly active: boolean } | undefined
  readonly publication: boolean
}

export async function serverState(client: Client, slot: string, publication: string): Promise<ServerState> {
  const { rows } = await client.query<{
    system_identifier: string
    wal_lsn: string
    has_publication: boolean
    slot_name: string | null
    plugin: string | null
    database: string | null
    confirmed_flush_lsn: string | null
    active: boolean | null
    lost: string | null
  }>(
    `SELECT s.system_identifier::text, pg_current_wal_flush_lsn()::text AS wal_lsn,
            EXISTS (SELECT FROM pg_publication WHERE pubname = $2) AS has_publication,
            r.slot_name, r.plugin, r.database, r.confirmed_flush_lsn::text, r.active,
            CASE WHEN r.invalidation_reason IS NOT NULL THEN r.invalidation_reason WHEN r.wal_status = 'lost' THEN 'wal_removed' END AS lost
       FROM pg_control_system() s LEFT JOIN pg_replication_slots r ON r.slot_name = $1`,
    [slot, publication],
  )
  const row = rows[0]
  if (row.slot_name !== null && (row.plugin !== 'pgoutput' || row.confirmed_flush_lsn === null))
    throw new BeyondError('POSTGRES_REFUSED', `The slot ${slot} is not a pgoutput slot: choose another name with --slot, or drop it.`)
  return {
    systemId: row.system_identifier,
    walLsn: lsnFromServer(row.wal_lsn),
    slot: row.slot_name === null ? undefined : { confirmed: lsnFromServer(row.confirmed_flush_lsn!), lost: row.lost ?? undefined, active: row.active === true },
    publication: row.has_publication,
  }
}

/** Answers the consistent point: the slot gives every transaction that commits after it. */
export async function createSlot(client: Client, slot: string): Promise<Lsn> {
  const { rows } = await client.query<{ lsn: string }>(`SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput')`, [slot])
  return lsnFromServer(rows[0].lsn)
}

export async function dropSlot(client: Client, slot: string): Promise<void> {
  await client.query('SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1', [slot])
}

/** A publication of `tables` (`schema.table` each), or of all tables when there are none. Needs the rights to do so. */
export async function createPublication(client: Client, publication: string, tables: readonly string[]): Promise<void> {
  const name = client.escapeIdentifier(publication)
  const list = tables.map((table) => table.split('.').map((part) => client.escapeIdentifier(part)).join('.'))
  await client.query(`CREATE PUBLICATION ${name} FOR ${list.length > 0 ? `TABLE ${list.join(', ')}` : 'ALL TABLES'}`)
}

/** Asks Postgres for all that a status tells of it, in one query, so that the parts belong together. */
import type { Client } from 'pg'
import type { PostgresFacts } from './status-facts.ts'
import { protectionOf, type ProtectionInput } from './protection.ts'

/** pg_database_size looks at every file: not for probes. */
export type PostgresQuestion = { readonly sizes: boolean }

type Row = Omit<PostgresFacts, 'protection'> & { readonly settings: Omit<ProtectionInput, 'standbys'> }

const time = (sql: string): string => `to_char((${sql}) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`
const ms = (sql: string): string => `round(extract(epoch FROM ${sql}) * 1000)::bigint`

// Only the branch that is taken is run: functions of the primary fail on a replica.
const END_OF_WAL = 'CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE pg_current_wal_flush_lsn() END'

/** Of a primary. The control file tells a new one only after the next checkpoint; the name of a WAL file begins with it. */
export const TIMELINE = "('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int"

const QUERY = `
  WITH wal AS MATERIALIZED (SELECT ${END_OF_WAL} AS lsn), control AS MATERIALIZED (SELECT * FROM pg_control_checkpoint()),
  backends AS MATERIALIZED (SELECT * FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())
  SELECT json_build_object(
    'version', split_part(current_setting('server_version'), ' ', 1),
    'startedAt', ${time('pg_postmaster_start_time()')},
    'inRecovery', pg_is_in_recovery(),
    'systemId', (SELECT system_identifier::text FROM pg_control_system()),
    'timeline', CASE WHEN pg_is_in_recovery() THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver), control.timeline_id) ELSE ${TIMELINE} END,
    'walLsn', wal.lsn,
    'walSinceCheckpoint', wal.lsn - control.redo_lsn,
    'checkpointAt', ${time('control.checkpoint_time')},
    'checkpointTimeoutMs', (SELECT setting::bigint * 1000 FROM pg_settings WHERE name = 'checkpoint_timeout'),
    'checkpoints', (SELECT json_build_object('timed', num_timed + restartpoints_timed, 'requested', num_requested + restartpoints_req,
       'writeMs', write_time, 'syncMs', sync_time) FROM pg_stat_checkpointer),
    'walBytes', (SELECT wal_bytes FROM pg_stat_wal),
    'walDirectoryBytes', (SELECT coalesce(sum(size), 0) FROM pg_ls_waldir()),
    'connections', (SELECT json_build_object('used', count(*), 'max', current_setting('max_connections')::int,
       'active', count(*) FILTER (WHERE state = 'active'), 'idleInTransaction', count(*) FILTER (WHERE state LIKE 'idle in transaction%'),
       'waiting', count(*) FILTER (WHERE wait_event_type = 'Lock')) FROM backends),
    'oldestTransactionMs', (SELECT max(${ms('clock_timestamp() - xact_start')}) FROM backends),
    'oldestPreparedMs', (SELECT max(${ms('clock_timestamp() - prepared')}) FROM pg_prepared_xacts),
    'xidAge', (SELECT max(age(datfrozenxid)) FROM pg_database),
    'databases', (SELECT coalesce(json_agg(json_build_object('name', d.datname, 'bytes', CASE WHEN $SIZES THEN pg_database_size(d.oid) END,
       'commits', xact_commit, 'rollbacks', xact_rollback, 'blocksRead', blks_read, 'blocksHit', blks_hit, 'rowsInserted', tup_inserted,
       'rowsUpdated', tup_updated, 'rowsDeleted', tup_deleted, 'deadlocks', deadlocks, 'temporaryBytes', temp_bytes,
       'checksumFailures', coalesce(checksum_failures, 0)) ORDER BY d.datname), '[]')
       FROM pg_stat_database s JOIN pg_database d ON d.oid = s.datid WHERE NOT d.datistemplate),
    'replica', CASE WHEN pg_is_in_recovery() THEN (SELECT json_build_object('streaming', coalesce(bool_or(status = 'streaming'), false),
       'receivedLsn', pg_last_wal_receive_lsn(), 'replayedLsn', pg_last_wal_replay_lsn(),
       'replayBytes', greatest(0, coalesce(pg_last_wal_receive_lsn() - pg_last_wal_replay_lsn(), 0)),
       'replayMs', CASE WHEN coalesce(pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn(), false)
          THEN coalesce(${ms('clock_timestamp() - pg_last_xact_replay_timestamp()')}, 0) ELSE 0 END,
       'silentMs', ${ms('clock_timestamp() - max(last_msg_receipt_time)')},
       'paused', pg_is_wal_replay_paused()) FROM pg_stat_wal_receiver) END,
    'standbys', (SELECT coalesce(json_agg(json_build_object('name', application_name, 'state', state, 'sync', sync_state, 'flushed', flush_lsn,
       'lagBytes', greatest(0, wal.lsn - flush_lsn), 'lagMs', ${ms('flush_lag')}) ORDER BY application_name, pid), '[]')
       FROM pg_stat_replication WHERE pid NOT IN (SELECT active_pid FROM pg_replication_slots WHERE slot_type = 'logical' AND active_pid IS NOT NULL)),
    'slots', (SELECT coalesce(json_agg(json_build_object('name', slot_name, 'kind', slot_type, 'database', database, 'active', active,
       'walStatus', wal_status, 'retainedBytes', wal.lsn - restart_lsn, 'safeBytes', safe_wal_size, 'invalidation', invalidation_reason)
       ORDER BY slot_name), '[]') FROM pg_replication_slots WHERE NOT temporary),
    'settings', json_build_object('fsync', current_setting('fsync')::bool,
       'synchronousCommit', (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'),
       'standbyNames', current_setting('synchronous_standby_names')),
    'pendingRestart', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM pg_settings WHERE pending_restart),
    'badSettings', (SELECT coalesce(json_agg(json_build_object('file', sourcefile, 'line', sourceline, 'name', name, 'error', error) ORDER BY seqno), '[]')
       FROM pg_file_settings WHERE error IS NOT NULL AND error <> 'setting could not be applied')
  ) AS facts FROM wal, control`

export async function askPostgres(client: Client, { sizes }: PostgresQuestion): Promise<PostgresFacts> {
  const { rows } = await client.query<{ facts: Row }>(QUERY.replace('$SIZES', String(sizes)))
  const { settings, ...facts } = rows[0].facts
  return { ...facts, protection: protectionOf({ ...settings, standbys: facts.standbys }) }
}

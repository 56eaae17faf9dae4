/** The metrics of a box, from its status: names, units (seconds and bytes), help. Pure. docs/rpc.md lists them. */
import { type Family, type Labels, renderMetrics, type Sample } from './metrics-text.ts'
import { type BoxStatus, known } from './status-facts.ts'

export function metricsOf(status: BoxStatus): string {
  return renderMetrics([...box(status), ...postgres(status), ...pooler(status), ...changes(status)])
}

const gauge = (name: string, help: string, ...samples: Sample[]): Family => ({ name: `beyond_pg_${name}`, type: 'gauge', help, samples })
const counter = (name: string, help: string, ...samples: Sample[]): Family => ({ name: `beyond_pg_${name}`, type: 'counter', help, samples })
const yes = (value: boolean): number => (value ? 1 : 0)
const secondsOf = (iso: string): number => Date.parse(iso) / 1000
const inSeconds = (ms: number | null): number | null => (ms === null ? null : ms / 1000)
const each = <T>(items: readonly T[], sample: (item: T) => Sample): Sample[] => items.map(sample)

function box({ box, children, health, query, disk, certificates, time }: BoxStatus): Family[] {
  const answered = known(query)
  const space = known(disk)
  return [
    gauge('info', 'Always 1; what runs is in the labels.', [1, { version: box.version, tier: box.tier }]),
    gauge('healthy', '1 when the box does what it promises, warnings or not.', [yes(health.verdict !== 'unhealthy')]),
    gauge('findings', 'What needs attention, by level and code.', ...findings(health.findings)),
    gauge('supervisor_start_time_seconds', 'When the supervisor started, seconds since 1970.', [secondsOf(box.startedAt)]),
    gauge('supervisor_resident_memory_bytes', 'Memory of the supervisor.', [box.memoryBytes]),
    gauge('child_up', '1 when the child serves.', ...each(children, ({ name, status }) => [yes(status === 'running'), { child: name }])),
    gauge('child_start_time_seconds', 'Since when the child serves, seconds since 1970.', ...each(children, ({ name, since }) => [since === null ? null : secondsOf(since), { child: name }])),
    counter('child_restarts_total', 'Starts after the first one, since the supervisor runs.', ...each(children, ({ name, restarts }) => [restarts, { child: name }])),
    gauge('query_up', '1 when a query through the pooler is answered.', [yes(answered !== undefined)]),
    gauge('query_duration_seconds', 'How long that query took, with connecting.', [inSeconds(answered?.ms ?? null)]),
    gauge('disk_size_bytes', "Size of the data directory's file system.", [space?.totalBytes ?? null]),
    gauge('disk_free_bytes', 'What this account may still use of it.', [space?.freeBytes ?? null]),
    gauge('certificate_expiry_time_seconds', 'When the certificate ends, seconds since 1970.', ...each(certificates, ({ name, validUntil }) => [validUntil === null ? null : secondsOf(validUntil), { certificate: name }])),
    gauge('status_time_seconds', 'When all of this was looked at, seconds since 1970.', [secondsOf(time)]),
  ]
}

/** One sample per level and code: several slots may have the same to complain of. */
function findings(list: BoxStatus['health']['findings']): Sample[] {
  const counts = new Map<string, { labels: Labels; count: number }>()
  for (const { level, code } of list) {
    const entry = counts.get(`${level} ${code}`) ?? { labels: { level, code }, count: 0 }
    entry.count++
    counts.set(`${level} ${code}`, entry)
  }
  return [...counts.values()].map(({ labels, count }) => [count, labels])
}

function postgres({ postgres }: BoxStatus): Family[] {
  const facts = known(postgres)
  if (!facts) return [gauge('postgres_up', '1 when Postgres answers.', [0])]
  const { connections, checkpoints, databases, standbys, slots, replica, protection } = facts
  const perDatabase = (value: (database: (typeof databases)[number]) => number | null): Sample[] => each(databases, (database) => [value(database), { database: database.name }])
  return [
    gauge('postgres_up', '1 when Postgres answers.', [1]),
    gauge('postgres_info', 'Always 1; what runs is in the labels.', [1, { version: facts.version, system_id: facts.systemId }]),
    gauge('postgres_start_time_seconds', 'When Postgres started, seconds since 1970.', [secondsOf(facts.startedAt)]),
    gauge('postgres_in_recovery', '1 on a replica.', [yes(facts.inRecovery)]),
    gauge('postgres_timeline', 'Timeline of the WAL.', [facts.timeline]),
    gauge('postgres_wal_lsn_bytes', 'End of WAL, as a number of bytes.', [facts.walLsn === null ? null : lsnNumber(facts.walLsn)]),
    counter('postgres_wal_written_bytes_total', 'WAL written since the statistics were reset.', [facts.walBytes]),
    gauge('postgres_wal_directory_bytes', 'Size of pg_wal.', [facts.walDirectoryBytes]),
    gauge('postgres_wal_since_checkpoint_bytes', 'WAL that a crash recovery would replay, about.', [facts.walSinceCheckpoint]),
    gauge('postgres_checkpoint_time_seconds', 'When the last checkpoint began, seconds since 1970.', [secondsOf(facts.checkpointAt)]),
    counter('postgres_checkpoints_total', 'Checkpoints, restart points on a replica.', [checkpoints.timed, { cause: 'time' }], [checkpoints.requested, { cause: 'request' }]),
    counter('postgres_checkpoint_write_seconds_total', 'Time that checkpoints wrote.', [checkpoints.writeMs / 1000]),
    counter('postgres_checkpoint_sync_seconds_total', 'Time that checkpoints synced.', [checkpoints.syncMs / 1000]),
    gauge('postgres_connections', 'Connections of clients and the pooler.', [connections.used]),
    gauge('postgres_connections_max', 'max_connections.', [connections.max]),
    gauge('postgres_connections_active', 'Those that run a query.', [connections.active]),
    gauge('postgres_connections_idle_in_transaction', 'Those with an open transaction and no query.', [connections.idleInTransaction]),
    gauge('postgres_connections_waiting_for_lock', 'Those that wait for a lock.', [connections.waiting]),
    gauge('postgres_oldest_transaction_seconds', 'Age of the oldest open transaction.', [inSeconds(facts.oldestTransactionMs ?? 0)]),
    gauge('postgres_xid_age', 'Transactions since the oldest that is not frozen.', [facts.xidAge]),
    gauge('postgres_settings_pending_restart', 'Changed settings that wait for a restart.', [facts.pendingRestart.length]),
    gauge('postgres_settings_bad', 'Lines of config files that are not in effect.', [facts.badSettings.length]),
    gauge('postgres_database_size_bytes', 'Size of the database.', ...perDatabase(({ bytes }) => bytes)),
    counter('postgres_commits_total', 'Transactions committed.', ...perDatabase(({ commits }) => commits)),
    counter('postgres_rollbacks_total', 'Transactions rolled back.', ...perDatabase(({ rollbacks }) => rollbacks)),
    counter('postgres_blocks_read_total', 'Blocks that were not in shared buffers.', ...perDatabase(({ blocksRead }) => blocksRead)),
    counter('postgres_blocks_hit_total', 'Blocks that were in shared buffers.', ...perDatabase(({ blocksHit }) => blocksHit)),
    counter('postgres_rows_inserted_total', 'Rows inserted.', ...perDatabase(({ rowsInserted }) => rowsInserted)),
    counter('postgres_rows_updated_total', 'Rows updated.', ...perDatabase(({ rowsUpdated }) => rowsUpdated)),
    counter('postgres_rows_deleted_total', 'Rows deleted.', ...perDatabase(({ rowsDeleted }) => rowsDeleted)),
    counter('postgres_deadlocks_total', 'Deadlocks.', ...perDatabase(({ deadlocks }) => deadlocks)),
    counter('postgres_temporary_bytes_total', 'Bytes written to temporary files.', ...perDatabase(({ temporaryBytes }) => temporaryBytes)),
    counter('postgres_checksum_failures_total', 'Broken pages that were found.', ...perDatabase(({ checksumFailures }) => checksumFailures)),
    gauge('protection_standbys_needed', 'Standbys that have to hold a commit before it is acknowledged.', [protection.kind === 'standbys' ? protection.needed : 0]),
    gauge('protection_standbys_present', 'Those of them that are connected.', [protection.kind === 'standbys' ? protection.present : 0]),
    gauge('protection_durable', '1 when a commit is on disk before it is acknowledged.', [yes(protection.kind !== 'none')]),
    gauge('standby_lag_bytes', 'WAL that the standby has not flushed.', ...each(standbys, ({ name, sync, lagBytes }) => [lagBytes, { standby: name, sync }])),
    gauge('standby_lag_seconds', 'The same as time, as the standby reports it.', ...each(standbys, ({ name, sync, lagMs }) => [inSeconds(lagMs), { standby: name, sync }])),
    gauge('slot_active', '1 when somebody reads the slot.', ...each(slots, ({ name, kind, active }) => [yes(active), { slot: name, kind }])),
    gauge('slot_retained_bytes', 'WAL that is kept for the slot.', ...each(slots, ({ name, kind, retainedBytes }) => [retainedBytes, { slot: name, kind }])),
    gauge('slot_lost', '1 when the slot can give nothing any more.', ...each(slots, ({ name, kind, walStatus, invalidation }) => [yes(walStatus === 'lost' || invalidation !== null), { slot: name, kind }])),
    gauge('replica_streaming', '1 when the replica is connected to its primary.', ...(replica ? [[yes(replica.streaming)] as const] : [])),
    gauge('replica_replay_lag_bytes', 'WAL received and not replayed.', ...(replica ? [[replica.replayBytes] as const] : [])),
    gauge('replica_replay_lag_seconds', 'Age of the newest replayed commit while there is more to replay.', ...(replica ? [[replica.replayMs / 1000] as const] : [])),
  ]
}

function pooler({ pooler }: BoxStatus): Family[] {
  const facts = known(pooler)
  if (!facts) return [gauge('pooler_up', '1 when PgBouncer answers.', [0])]
  const { clients, servers, totals } = facts
  return [
    gauge('pooler_up', '1 when PgBouncer answers.', [1]),
    gauge('pooler_workers', 'Processes of PgBouncer.', [facts.workers]),
    gauge('pooler_paused', '1 when all queries are held back.', [yes(facts.paused)]),
    gauge('pooler_clients_active', 'Clients that are linked to a connection, or idle.', [clients.active]),
    gauge('pooler_clients_waiting', 'Clients that wait for a connection.', [clients.waiting]),
    gauge('pooler_clients_max', 'Clients that may connect.', [clients.max]),
    gauge('pooler_servers_active', 'Connections to Postgres that a client uses.', [servers.active]),
    gauge('pooler_servers_idle', 'Connections to Postgres that nobody uses.', [servers.idle]),
    gauge('pooler_longest_wait_seconds', 'Longest wait of a client now.', [facts.maxWaitMs / 1000]),
    counter('pooler_transactions_total', 'Transactions pooled.', [totals.transactions]),
    counter('pooler_queries_total', 'Queries pooled.', [totals.queries]),
    counter('pooler_received_bytes_total', 'Bytes from clients.', [totals.receivedBytes]),
    counter('pooler_sent_bytes_total', 'Bytes to clients.', [totals.sentBytes]),
    counter('pooler_transaction_seconds_total', 'Time in transactions.', [totals.transactionMs / 1000]),
    counter('pooler_query_seconds_total', 'Time in queries.', [totals.queryMs / 1000]),
    counter('pooler_wait_seconds_total', 'Time that clients waited for a connection.', [totals.waitMs / 1000]),
  ]
}

function changes({ changes }: BoxStatus): Family[] {
  if (changes === null) return []
  const facts = known(changes)
  if (!facts) return [gauge('changes_up', '1 when the change stream answers.', [0])]
  const { subscribers } = facts
  return [
    gauge('changes_up', '1 when the change stream answers.', [1]),
    gauge('changes_streaming', '1 when it reads from Postgres.', [yes(facts.state === 'streaming')]),
    gauge('changes_start_time_seconds', 'When the service started, seconds since 1970.', [secondsOf(facts.startedAt)]),
    gauge('changes_slot_lag_bytes', 'WAL that is not in the change log yet.', [facts.lagBytes]),
    gauge('changes_log_bytes', 'Size of the change log.', [facts.logBytes]),
    gauge('changes_log_files', 'Files of the change log.', [facts.logFiles]),
    gauge('changes_newest_time_seconds', 'Commit time of the newest logged transaction, seconds since 1970.', [facts.newestAt === null ? null : secondsOf(facts.newestAt)]),
    counter('changes_transactions_total', 'Transactions logged since the service started.', [facts.transactions]),
    counter('changes_rows_total', 'Changes logged since the service started.', [facts.changes]),
    gauge('changes_subscribers', 'Subscriptions that are connected.', [subscribers.filter(({ connected }) => connected).length]),
    // Only durable consumers have a name that stays; for the others the worst is told.
    gauge('changes_subscriber_lag_bytes_max', 'Log that the slowest connected subscription has not taken.', [Math.max(0, ...subscribers.filter(({ connected }) => connected).map(({ lagBytes }) => lagBytes))]),
    gauge('changes_consumer_connected', '1 when the durable consumer is connected.', ...each(subscribers.filter(({ durable }) => durable), ({ name, connected }) => [yes(connected), { consumer: name }])),
    gauge('changes_consumer_lag_bytes', 'Log that the durable consumer has not acknowledged.', ...each(subscribers.filter(({ durable }) => durable), ({ name, lagBytes }) => [lagBytes, { consumer: name }])),
    gauge('changes_consumer_lag_seconds', 'The same as time.', ...each(subscribers.filter(({ durable }) => durable), ({ name, lagMs }) => [lagMs / 1000, { consumer: name }])),
  ]
}

function lsnNumber(text: string): number {
  const [high, low] = text.split('/').map((half) => Number.parseInt(half, 16))
  return high * 2 ** 32 + low
}

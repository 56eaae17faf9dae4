/**
 * Whether a box does what it promises, from the facts about it. Pure. Each finding says what is wrong and what to do.
 * A problem: something that the box promises does not hold now, or not for long. A warning: it holds, and needs somebody's attention.
 */
import { type BoxStatus, type CertificateFacts, type Finding, type Health, known } from './status-facts.ts'

export type Facts = Omit<BoxStatus, 'health'>

const SECOND = 1_000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE
const MIB = 1024 * 1024
const GIB = 1024 * MIB

export const healthLimits = {
  slowQueryMs: 1 * SECOND,
  /** Below either the box is about to stop. */
  diskProblem: { share: 0.02, bytes: 256 * MIB },
  diskWarning: { share: 0.1, bytes: 50 * GIB },
  certificateWarningDays: 14,
  replayWarningMs: 30 * SECOND,
  /** A primary's receiver says something every ten seconds, even when idle. */
  silentMs: 1 * MINUTE,
  slotWarningShare: 0.25,
  slotWarningBytes: 1 * GIB,
  /** Checkpoints may be late by so many times their interval, when there is something to write. */
  checkpointIntervals: 3,
  checkpointBytes: 64 * MIB,
  connectionsShare: 0.9,
  poolerWaitMs: 5 * SECOND,
  transactionMs: 1 * HOUR,
  preparedMs: 1 * HOUR,
  xidWarning: 1_200_000_000,
  xidProblem: 2_000_000_000,
} as const

export function judge(facts: Facts): Health {
  const findings = [...boot(facts), ...children(facts), ...queries(facts), ...postgres(facts), ...replication(facts), ...changes(facts), ...disk(facts), ...certificates(facts)]
  const ordered = [...findings.filter(({ level }) => level === 'problem'), ...findings.filter(({ level }) => level === 'warning')]
  const verdict = ordered.length === 0 ? 'healthy' : ordered[0].level === 'problem' ? 'unhealthy' : 'warning'
  return { verdict, findings: ordered }
}

const problem = (code: string, text: string, todo: string): Finding => ({ level: 'problem', code, text, todo })
const warning = (code: string, text: string, todo: string): Finding => ({ level: 'warning', code, text, todo })

function boot({ box }: Facts): Finding[] {
  return box.problems.map((text) => warning('boot', sentence(text), 'mend it, then restart the box: beyond-pg shutdown, and start it again'))
}

function children({ children, time, box }: Facts): Finding[] {
  const failed = children.flatMap(({ name, status, nextAttempt }) => {
    const isWanted = box.ready || status === 'backing-off' // in a boot, all the others are about to come
    if (status === 'running' || !isWanted || name.startsWith('pgbouncer-')) return []
    const next = nextAttempt === null ? '' : `, tried again in ${seconds(Date.parse(nextAttempt) - Date.parse(time))}`
    const what = status === 'backing-off' ? `has failed${next}` : status === 'starting' ? 'is starting' : 'is stopped'
    return [problem(`${name}-down`, `${name} ${what}.`, `see why: beyond-pg logs --child ${name}`)]
  })
  if (box.ready) return failed
  return [problem('booting', 'The box is booting.', 'wait; beyond-pg logs --follow shows how far it is'), ...failed]
}

function queries({ query, pooler, children, box }: Facts): Finding[] {
  const pool = known(pooler)
  if (pool?.paused) return [problem('paused', 'PgBouncer is paused: every query of every client waits.', 'beyond-pg resume, unless somebody works on the box right now')]
  const isDown = !box.ready || children.some(({ name, status }) => (name === 'postgres' || name === 'pgbouncer') && status !== 'running')
  const answered = known(query)
  const found: Finding[] = []
  // Who is down has been told already.
  if (!answered && !isDown) found.push(problem('query-failed', `A query through the pooler failed: ${sentence((query as { error: string }).error)}`, 'beyond-pg logs shows what Postgres and PgBouncer say'))
  if (answered && answered.ms > healthLimits.slowQueryMs) {
    found.push(warning('query-slow', `The simplest query takes ${seconds(answered.ms)} through the pooler.`, 'look for a loaded machine, or clients that wait for a free connection'))
  }
  if (pool && pool.maxWaitMs > healthLimits.poolerWaitMs) {
    const text = `${pool.clients.waiting} clients wait for a connection, the longest for ${seconds(pool.maxWaitMs)}.`
    found.push(warning('clients-wait', text, 'look for long transactions: SELECT * FROM pg_stat_activity ORDER BY xact_start'))
  }
  return found
}

function postgres({ postgres, time, children }: Facts): Finding[] {
  const facts = known(postgres)
  if (!facts) {
    const isUp = children.some(({ name, status }) => name === 'postgres' && status === 'running')
    const { error } = postgres as { error: string }
    return isUp ? [problem('postgres-unreachable', `Postgres runs and does not answer: ${sentence(error)}`, 'beyond-pg logs --child postgres')] : []
  }
  const found: Finding[] = []
  const age = Date.parse(time) - Date.parse(facts.checkpointAt)
  const { checkpointIntervals, checkpointBytes } = healthLimits
  if (age > checkpointIntervals * facts.checkpointTimeoutMs && (facts.walSinceCheckpoint ?? 0) > checkpointBytes) {
    found.push(warning('checkpoint-late', `The last checkpoint is ${seconds(age)} old: a crash recovery would take long.`, 'beyond-pg checkpoint; if that does not end, the disk is too slow or in trouble'))
  }
  const { used, max } = facts.connections
  if (used > healthLimits.connectionsShare * max) {
    found.push(warning('connections', `${used} of ${max} connections of Postgres are in use.`, 'let clients connect to the pooler, not to Postgres itself, or give the box more memory'))
  }
  if ((facts.oldestTransactionMs ?? 0) > healthLimits.transactionMs) {
    const text = `A transaction has been open for ${seconds(facts.oldestTransactionMs ?? 0)}: nothing that it might see is cleaned up, and changes wait for it.`
    found.push(warning('old-transaction', text, 'find it: SELECT pid, usename, query FROM pg_stat_activity ORDER BY xact_start; end it: SELECT pg_terminate_backend(pid)'))
  }
  if ((facts.oldestPreparedMs ?? 0) > healthLimits.preparedMs) {
    found.push(warning('old-prepared', 'A prepared transaction is waiting for its second phase.', 'find it: SELECT * FROM pg_prepared_xacts; then COMMIT PREPARED or ROLLBACK PREPARED'))
  }
  if (facts.xidAge > healthLimits.xidWarning) {
    const make = facts.xidAge > healthLimits.xidProblem ? problem : warning
    const text = `${Math.round(facts.xidAge / 1e6)} of 2147 million transaction numbers are used up since the last freeze.`
    found.push(make('transaction-ids', text, 'end old transactions, drop dead slots, then VACUUM (FREEZE) the oldest tables'))
  }
  for (const { name, checksumFailures } of facts.databases) {
    if (checksumFailures > 0) found.push(problem('checksums', `Postgres found ${checksumFailures} broken pages in database ${name}.`, 'the storage lies: take a backup now and move to another volume'))
  }
  if (facts.pendingRestart.length > 0) {
    found.push(warning('pending-restart', `Changed settings wait for a restart: ${facts.pendingRestart.join(', ')}.`, 'restart the box when it suits: beyond-pg shutdown, and start it again'))
  }
  for (const { file, line, name, error } of facts.badSettings) {
    found.push(warning('bad-setting', `${file}:${line} is not in effect: ${name === null ? '' : `${name}: `}${sentence(error)}`, 'mend that line, then beyond-pg reload'))
  }
  const { protection } = facts
  if (protection.kind === 'standbys' && protection.present < protection.needed) {
    const text = `Commits wait: ${protection.present} of ${protection.needed} synchronous standbys are connected.`
    found.push(problem('standbys-missing', text, 'bring the sink or standby back; nothing is lost, and what waits goes on by itself'))
  }
  return found
}

function replication({ postgres, disk, box }: Facts): Finding[] {
  const facts = known(postgres)
  if (!facts) return []
  const found: Finding[] = []
  if (box.tier === 'replica' && !facts.inRecovery) {
    found.push(warning('promoted', 'This box was promoted, and its settings still say that it is a replica: its next start would be refused.', 'set BEYOND_PG_TIER to primary, and remove BEYOND_PG_PRIMARY_CONNINFO'))
  }
  const { replica } = facts
  if (replica?.paused) found.push(warning('replay-paused', 'The replay of WAL is paused.', 'SELECT pg_wal_replay_resume()'))
  if (replica && (!replica.streaming || (replica.silentMs ?? 0) > healthLimits.silentMs)) {
    found.push(problem('replica-cut-off', 'The replica is not connected to its primary: what it shows grows old.', 'check that the primary runs and can be reached: beyond-pg logs --child postgres'))
  }
  if (replica && replica.replayMs > healthLimits.replayWarningMs) {
    found.push(warning('replay-lag', `The replica is ${seconds(replica.replayMs)} behind what it has received.`, 'look for long queries on it, which replay waits for'))
  }
  const free = known(disk)?.freeBytes
  for (const { name, active, walStatus, retainedBytes, safeBytes, invalidation } of facts.slots) {
    if (walStatus === 'lost' || invalidation !== null) {
      const todo = 'its reader has to begin anew; then drop it: SELECT pg_drop_replication_slot(…)'
      found.push(problem('slot-lost', `Slot ${name} is lost (${invalidation ?? 'its WAL was removed'}): its reader misses changes for good.`, todo))
      continue
    }
    const kept = retainedBytes ?? 0
    const much = kept > healthLimits.slotWarningBytes && free !== undefined && kept > healthLimits.slotWarningShare * free
    const nearEnd = walStatus === 'unreserved' || (safeBytes !== null && safeBytes < kept * healthLimits.slotWarningShare)
    if (!much && !nearEnd) continue
    const text = `Slot ${name} keeps ${bytes(kept)} of WAL${nearEnd ? ' and is about to be lost' : ''}; its reader is ${active ? 'behind' : 'away'}.`
    found.push(warning('slot-lag', text, `${active ? 'find out why its reader is slow' : 'bring its reader back'}, or drop the slot if nobody needs it any more`))
  }
  return found
}

function changes({ changes, children }: Facts): Finding[] {
  if (changes === null) return []
  const facts = known(changes)
  const isUp = children.some(({ name, status }) => name === 'cdc' && status === 'running')
  if (!facts) return isUp ? [problem('changes-unreachable', `The change stream does not answer: ${sentence((changes as { error: string }).error)}`, 'beyond-pg logs --child cdc')] : []
  if (facts.state === 'streaming' || facts.state === 'starting') return []
  return [problem('changes-stopped', `Changes don't stream: ${sentence(facts.error ?? facts.state)}`, 'beyond-pg logs --child cdc; it goes on by itself when the cause is gone')]
}

function disk({ disk }: Facts): Finding[] {
  const facts = known(disk)
  if (!facts) return [warning('disk-unknown', `The disk can't be measured: ${sentence((disk as { error: string }).error)}`, 'look at it by hand: df')]
  const { diskProblem, diskWarning } = healthLimits
  const share = facts.freeBytes / Math.max(1, facts.totalBytes)
  const text = `${bytes(facts.freeBytes)} of ${bytes(facts.totalBytes)} are free (${Math.floor(share * 100)} %).`
  const todo = 'grow the volume, or make room: large tables, old logs, slots that keep WAL'
  if (share < diskProblem.share || facts.freeBytes < diskProblem.bytes) return [problem('disk-full', `The disk is nearly full: ${text}`, todo)]
  if (share < diskWarning.share && facts.freeBytes < diskWarning.bytes) return [warning('disk-low', `The disk fills up: ${text}`, todo)]
  return []
}

function certificates({ certificates }: Facts): Finding[] {
  return certificates.flatMap(({ name, daysLeft, error, path }: CertificateFacts) => {
    if (daysLeft === null) return [problem('certificate-unreadable', `The certificate of the ${name} can't be read: ${sentence(error ?? '')}`, `put ${path} back, then restart the box`)]
    const todo = name === 'authority' ? 'give subscribers a new authority before that day: see docs/operating.md' : 'restart the box, which makes a new one; beyond-pg logs says why it was not renewed'
    if (daysLeft < 0) return [problem('certificate-expired', `The certificate of the ${name} has expired.`, todo)]
    if (daysLeft < healthLimits.certificateWarningDays) return [warning('certificate-expires', `The certificate of the ${name} expires in ${Math.floor(daysLeft)} days.`, todo)]
    return []
  })
}

const sentence = (text: string): string => (/[.!?…]$/.test(text.trim()) ? text.trim() : `${text.trim()}.`)

function seconds(ms: number): string {
  if (ms < 10 * SECOND) return `${(Math.max(0, ms) / SECOND).toFixed(1)} s`
  if (ms < 2 * MINUTE) return `${Math.round(ms / SECOND)} s`
  return ms < 2 * HOUR ? `${Math.round(ms / MINUTE)} min` : `${Math.round(ms / HOUR)} h`
}

const bytes = (count: number): string => (count >= GIB ? `${(count / GIB).toFixed(1)} GiB` : `${Math.round(count / MIB)} MiB`)

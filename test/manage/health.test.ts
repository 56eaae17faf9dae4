import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Facts, judge } from '../../src/manage/health.ts'
import type { ChildFacts, PostgresFacts, ReplicaFacts } from '../../src/manage/status-facts.ts'
import { changes, pooler, postgres, slot, well } from './box-facts.ts'

const GIB = 1024 ** 3
const HOUR = 3_600_000

const withPostgres = (different: Partial<PostgresFacts>): Facts => ({ ...well, postgres: { ...postgres, ...different } })
const withChild = (name: string, different: Partial<ChildFacts>): Facts => ({
  ...well,
  children: well.children.map((child) => (child.name === name ? { ...child, ...different } : child)),
})
const replica: ReplicaFacts = { streaming: true, receivedLsn: '0/2', replayedLsn: '0/1', replayBytes: 1, replayMs: 0, silentMs: 100, paused: false }
const withReplica = (different: Partial<ReplicaFacts>): Facts => withPostgres({ inRecovery: true, replica: { ...replica, ...different } })
const withFree = (totalBytes: number, freeBytes: number): Facts => ({ ...well, disk: { path: '/', totalBytes, freeBytes } })
const withCertificate = (daysLeft: number | null): Facts => ({
  ...well,
  certificates: [{ name: 'server', path: '/tls/server.crt', validUntil: null, daysLeft, error: daysLeft === null ? 'no such file' : null }],
})

const cases: readonly (readonly [what: string, facts: Facts, expected: readonly string[]])[] = [
  ['all is well', well, []],
  ['no change stream is wanted', { ...well, changes: null, children: well.children.slice(0, 2) }, []],
  ['something of the boot is wrong', { ...well, box: { ...well.box, problems: ['99-user.conf is not in force'] } }, ['warning boot']],
  ['Postgres has failed', { ...withChild('postgres', { status: 'backing-off', nextAttempt: '2026-03-04T12:00:04.000Z' }), postgres: { error: 'connect ENOENT' }, query: { error: 'no answer within 3 s' } }, ['problem postgres-down']],
  ['the pooler is starting', { ...withChild('pgbouncer', { status: 'starting' }), pooler: { error: 'not started yet' }, query: { error: 'x' } }, ['problem pgbouncer-down']],
  ['an extra worker is leaving', { ...well, children: [...well.children, { name: 'pgbouncer-2', status: 'stopped', pid: null, since: null, nextAttempt: null, restarts: 0 }] }, []],
  ['a query fails while all run', { ...well, query: { error: 'no more connections allowed' } }, ['problem query-failed']],
  ['a query is slow', { ...well, query: { ms: 1500 } }, ['warning query-slow']],
  ['the pooler is paused', { ...well, pooler: { ...pooler, paused: true }, query: { error: 'no answer within 3 s' } }, ['problem paused']],
  ['clients wait', { ...well, pooler: { ...pooler, maxWaitMs: 6_000, clients: { active: 5, waiting: 9, max: 1000 } } }, ['warning clients-wait']],
  ['Postgres runs and does not answer', { ...well, postgres: { error: 'no answer within 3 s' } }, ['problem postgres-unreachable']],
  ['an idle Postgres skips checkpoints', withPostgres({ checkpointAt: '2026-03-01T09:00:00.000Z', walSinceCheckpoint: 500 }), []],
  ['a checkpoint is late', withPostgres({ checkpointAt: '2026-03-04T11:00:00.000Z', walSinceCheckpoint: GIB }), ['warning checkpoint-late']],
  ['connections run out', withPostgres({ connections: { ...postgres.connections, used: 95 } }), ['warning connections']],
  ['a transaction is old', withPostgres({ oldestTransactionMs: 2 * HOUR }), ['warning old-transaction']],
  ['a prepared transaction is old', withPostgres({ oldestPreparedMs: 2 * HOUR }), ['warning old-prepared']],
  ['transaction numbers are used up', withPostgres({ xidAge: 1_300_000_000 }), ['warning transaction-ids']],
  ['transaction numbers run out', withPostgres({ xidAge: 2_100_000_000 }), ['problem transaction-ids']],
  ['pages are broken', withPostgres({ databases: [{ ...postgres.databases[0], checksumFailures: 1 }] }), ['problem checksums']],
  ['settings wait for a restart', withPostgres({ pendingRestart: ['shared_buffers'] }), ['warning pending-restart']],
  ['a setting is wrong', withPostgres({ badSettings: [{ file: '99-user.conf', line: 3, name: 'work_mem', error: 'invalid value' }] }), ['warning bad-setting']],
  ['too few standbys', withPostgres({ protection: { kind: 'standbys', needed: 2, present: 1, upTo: null, names: ['sink1'] } }), ['problem standbys-missing']],
  ['enough standbys', withPostgres({ protection: { kind: 'standbys', needed: 1, present: 1, upTo: '0/1', names: ['sink1'] } }), []],
  ['a replica that keeps up', withReplica({}), []],
  ['a replica is cut off', withReplica({ streaming: false, silentMs: null }), ['problem replica-cut-off']],
  ['a replica hears nothing', withReplica({ silentMs: 90_000 }), ['problem replica-cut-off']],
  ['a replica is behind', withReplica({ replayMs: 40_000 }), ['warning replay-lag']],
  ['the replay is paused', withReplica({ paused: true }), ['warning replay-paused']],
  ['a replica that was promoted', { ...well, box: { ...well.box, tier: 'replica' } }, ['warning promoted']],
  ['a slot is lost', withPostgres({ slots: [{ ...slot, walStatus: 'lost', invalidation: 'wal_removed' }] }), ['problem slot-lost']],
  ['a slot keeps much', { ...withPostgres({ slots: [{ ...slot, active: false, retainedBytes: 20 * GIB }] }) }, ['warning slot-lag']],
  ['a slot keeps little of a small disk', { ...withPostgres({ slots: [{ ...slot, retainedBytes: 100_000_000 }] }) }, []],
  ['a slot is about to be lost', withPostgres({ slots: [{ ...slot, walStatus: 'unreserved', retainedBytes: 1000 }] }), ['warning slot-lag']],
  ['changes stopped', { ...well, changes: { ...changes, state: 'reconnecting', error: 'SLOT_ACTIVE: Another connection reads the slot.' } }, ['problem changes-stopped']],
  ['changes begin', { ...well, changes: { ...changes, state: 'starting' } }, []],
  ['the change stream has failed', { ...withChild('cdc', { status: 'backing-off' }), changes: { error: 'unreachable' } }, ['problem cdc-down']],
  ['the change stream does not answer', { ...well, changes: { error: 'no answer within 3 s' } }, ['problem changes-unreachable']],
  ['a large disk with a tenth free', withFree(1000 * GIB, 95 * GIB), []],
  ['the disk fills up', withFree(100 * GIB, 9 * GIB), ['warning disk-low']],
  ['the disk is nearly full', withFree(100 * GIB, GIB), ['problem disk-full']],
  ['a small disk is nearly full', withFree(4 * GIB, 0.2 * GIB), ['problem disk-full']],
  ['the disk is unknown', { ...well, disk: { error: 'EIO' } }, ['warning disk-unknown']],
  ['a certificate will be renewed', withCertificate(20), []],
  ['a certificate expires', withCertificate(13), ['warning certificate-expires']],
  ['a certificate has expired', withCertificate(-1), ['problem certificate-expired']],
  ['a certificate is unreadable', withCertificate(null), ['problem certificate-unreadable']],
]

for (const [what, facts, expected] of cases) {
  test(`${what}: ${expected.join(', ') || 'healthy'}`, () => {
    const { findings, verdict } = judge(facts)
    assert.deepEqual(findings.map(({ level, code }) => `${level} ${code}`), expected)
    assert.equal(verdict, expected.length === 0 ? 'healthy' : expected[0].startsWith('problem') ? 'unhealthy' : 'warning')
    for (const { text, todo } of findings) {
      assert.match(text, /^\S.*[.!?…]$/s, 'a sentence')
      assert.match(todo, /^\S.*[^.]$/s, 'something to do')
    }
  })
}

test('problems come before warnings', () => {
  const { findings, verdict } = judge({ ...withPostgres({ pendingRestart: ['a'] }), disk: { path: '/', totalBytes: GIB, freeBytes: 1 } })
  assert.deepEqual(findings.map(({ level }) => level), ['problem', 'warning'])
  assert.equal(verdict, 'unhealthy')
})

test('a box that boots says so, and what has failed', () => {
  const booting = { ...withChild('postgres', { status: 'starting' }), box: { ...well.box, ready: false }, postgres: { error: 'starting up' }, query: { error: 'x' } }
  assert.deepEqual(judge(booting).findings.map(({ code }) => code), ['booting'])
  const failing = { ...booting, children: withChild('postgres', { status: 'backing-off' }).children }
  assert.deepEqual(judge(failing).findings.map(({ code }) => code), ['booting', 'postgres-down'])
})

/** The facts about a box that is well, for tests to change. */
import { judge, type Facts } from '../../src/manage/health.ts'
import type { BoxStatus, ChangesFacts, PoolerFacts, PostgresFacts, SlotFacts } from '../../src/manage/status-facts.ts'

const GIB = 1024 ** 3

export const slot: SlotFacts = {
  name: 'beyond_cdc',
  kind: 'logical',
  database: 'postgres',
  active: true,
  walStatus: 'reserved',
  retainedBytes: 56,
  safeBytes: null,
  invalidation: null,
}

export const postgres: PostgresFacts = {
  version: '18.6',
  startedAt: '2026-03-01T09:00:00.000Z',
  inRecovery: false,
  systemId: '7710953517399246571',
  timeline: 1,
  walLsn: '1A/2B3C4D5E',
  walSinceCheckpoint: 1_000_000,
  checkpointAt: '2026-03-04T11:56:00.000Z',
  checkpointTimeoutMs: 300_000,
  checkpoints: { timed: 900, requested: 7, writeMs: 1_250_500, syncMs: 1_500 },
  walBytes: 5_000_000_000,
  walDirectoryBytes: 1024 ** 3,
  connections: { used: 12, max: 100, active: 3, idleInTransaction: 1, waiting: 0 },
  oldestTransactionMs: 1_500,
  oldestPreparedMs: null,
  xidAge: 1_234_567,
  databases: [
    {
      name: 'postgres',
      bytes: 8_000_000,
      commits: 100,
      rollbacks: 1,
      blocksRead: 10,
      blocksHit: 990,
      rowsInserted: 5,
      rowsUpdated: 6,
      rowsDeleted: 7,
      deadlocks: 0,
      temporaryBytes: 0,
      checksumFailures: 0,
    },
  ],
  replica: null,
  standbys: [],
  slots: [slot],
  protection: { kind: 'disk' },
  pendingRestart: [],
  badSettings: [],
}

export const pooler: PoolerFacts = {
  version: '1.26.1',
  workers: 1,
  paused: false,
  clients: { active: 8, waiting: 0, max: 1000 },
  servers: { active: 2, idle: 3 },
  maxWaitMs: 0,
  totals: { transactions: 1000, queries: 2000, receivedBytes: 30_000, sentBytes: 40_000, transactionMs: 5_500, queryMs: 4_500, waitMs: 250 },
}

export const changes: ChangesFacts = {
  server: 'beyond-pg-cdc/0.1.0',
  state: 'streaming',
  error: null,
  startedAt: '2026-03-01T09:00:02.000Z',
  slot: 'beyond_cdc',
  confirmedLsn: '1A/2B3C4D26',
  lagBytes: 56,
  logBytes: 12 * 1024 * 1024,
  logFiles: 3,
  newestAt: '2026-03-04T11:59:58.000Z',
  transactions: 5_000,
  changes: 12_000,
  subscribers: [
    { name: 'billing', durable: true, connected: true, lagBytes: 2048, lagMs: 12, sentBytes: 1_000_000 },
    { name: 'search', durable: true, connected: false, lagBytes: 1_000_000, lagMs: 60_000, sentBytes: 0 },
    { name: 'beyond-pg-tail/0.1.0 127.0.0.1:50000', durable: false, connected: true, lagBytes: 0, lagMs: 0, sentBytes: 5_000 },
  ],
}

export const well: Facts = {
  time: '2026-03-04T12:00:00.000Z',
  box: {
    directory: '/srv/orders/.beyond',
    version: '0.1.0',
    tier: 'primary',
    pid: 4001,
    startedAt: '2026-03-01T09:00:00.000Z',
    memoryBytes: 64_000_000,
    problems: [],
    ready: true,
  },
  children: [
    { name: 'postgres', status: 'running', pid: 4010, since: '2026-03-01T09:00:01.000Z', nextAttempt: null, restarts: 0 },
    { name: 'pgbouncer', status: 'running', pid: 4020, since: '2026-03-01T09:00:02.000Z', nextAttempt: null, restarts: 0 },
    { name: 'cdc', status: 'running', pid: 4030, since: '2026-03-01T09:00:02.000Z', nextAttempt: null, restarts: 1 },
  ],
  postgres,
  pooler,
  query: { ms: 3.2 },
  changes,
  disk: { path: '/srv/orders/.beyond', totalBytes: 100 * GIB, freeBytes: 71 * GIB },
  certificates: [
    { name: 'server', path: '/srv/orders/.beyond/tls/server.crt', validUntil: '2027-04-01T00:00:00.000Z', daysLeft: 392.5, error: null },
    { name: 'client', path: '/srv/orders/.beyond/tls/client.crt', validUntil: '2027-04-01T00:00:00.000Z', daysLeft: 392.5, error: null },
    { name: 'authority', path: '/srv/orders/.beyond/tls/ca.crt', validUntil: '2036-03-01T00:00:00.000Z', daysLeft: 3650, error: null },
  ],
}

export const statusOf = (facts: Facts): BoxStatus => ({ ...facts, health: judge(facts) })

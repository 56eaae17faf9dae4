/** Everything that a box knows about itself, as it goes over the wire: numbers, texts and nulls only. docs/rpc.md explains each. */
import type { Protection, Standby } from './protection.ts'

/** What could not be asked, and why. */
export type Unknown = { readonly error: string }

export type BoxStatus = {
  /** When this was looked at, ISO 8601, as all times here. */
  readonly time: string
  readonly box: SupervisorFacts
  readonly children: readonly ChildFacts[]
  readonly postgres: PostgresFacts | Unknown
  readonly pooler: PoolerFacts | Unknown
  /** One query from a client's place: through the pooler, with its own login. */
  readonly query: { readonly ms: number } | Unknown
  /** Null: no change stream is wanted. */
  readonly changes: ChangesFacts | Unknown | null
  readonly disk: DiskFacts | Unknown
  readonly certificates: readonly CertificateFacts[]
  readonly health: Health
}

export type Verdict = 'healthy' | 'warning' | 'unhealthy'

export type Health = { readonly verdict: Verdict; readonly findings: readonly Finding[] }

export type Finding = {
  readonly level: 'warning' | 'problem'
  /** Stable, for programs. */
  readonly code: string
  readonly text: string
  /** What to do about it. */
  readonly todo: string
}

export type SupervisorFacts = {
  readonly directory: string
  readonly version: string
  readonly tier: string
  readonly pid: number
  readonly startedAt: string
  readonly memoryBytes: number
  /** What went wrong in the boot and did not stop it. */
  readonly problems: readonly string[]
  /** False until the boot is through. */
  readonly ready: boolean
}

export type ChildFacts = {
  readonly name: string
  readonly status: 'waiting' | 'starting' | 'running' | 'backing-off' | 'stopped'
  readonly pid: number | null
  /** Since when it serves. */
  readonly since: string | null
  /** When it is tried again. */
  readonly nextAttempt: string | null
  /** Since the supervisor runs, planned ones included. */
  readonly restarts: number
}

export type PostgresFacts = {
  readonly version: string
  readonly startedAt: string
  readonly inRecovery: boolean
  readonly systemId: string
  readonly timeline: number
  /** End of WAL: flushed on a primary, received on a replica. */
  readonly walLsn: string | null
  /** Bytes of WAL since the last checkpoint's redo position. */
  readonly walSinceCheckpoint: number | null
  readonly checkpointAt: string
  readonly checkpointTimeoutMs: number
  readonly checkpoints: { readonly timed: number; readonly requested: number; readonly writeMs: number; readonly syncMs: number }
  /** Since the statistics were reset. */
  readonly walBytes: number
  readonly walDirectoryBytes: number
  readonly connections: { readonly used: number; readonly max: number; readonly active: number; readonly idleInTransaction: number; readonly waiting: number }
  readonly oldestTransactionMs: number | null
  readonly oldestPreparedMs: number | null
  /** Transactions since the oldest one that is not frozen: at 2^31 Postgres would stop. */
  readonly xidAge: number
  readonly databases: readonly DatabaseFacts[]
  readonly replica: ReplicaFacts | null
  readonly standbys: readonly Standby[]
  readonly slots: readonly SlotFacts[]
  readonly protection: Protection
  readonly pendingRestart: readonly string[]
  readonly badSettings: readonly { readonly file: string; readonly line: number; readonly name: string | null; readonly error: string }[]
}

export type DatabaseFacts = {
  readonly name: string
  readonly bytes: number | null
  readonly commits: number
  readonly rollbacks: number
  readonly blocksRead: number
  readonly blocksHit: number
  readonly rowsInserted: number
  readonly rowsUpdated: number
  readonly rowsDeleted: number
  readonly deadlocks: number
  readonly temporaryBytes: number
  readonly checksumFailures: number
}

export type ReplicaFacts = {
  /** Whether it is connected to its primary. */
  readonly streaming: boolean
  readonly receivedLsn: string | null
  readonly replayedLsn: string | null
  /** Received and not replayed. */
  readonly replayBytes: number
  /** Age of the newest replayed commit, when there is more to replay; 0 when there is not. */
  readonly replayMs: number
  /** Since the primary was last heard of. */
  readonly silentMs: number | null
  readonly paused: boolean
}

export type SlotFacts = {
  readonly name: string
  readonly kind: 'logical' | 'physical'
  readonly database: string | null
  readonly active: boolean
  /** reserved, extended, unreserved or lost. */
  readonly walStatus: string | null
  readonly retainedBytes: number | null
  /** What may still be written before it is lost; null: no limit is set. */
  readonly safeBytes: number | null
  readonly invalidation: string | null
}

export type PoolerFacts = {
  readonly version: string
  readonly workers: number
  readonly paused: boolean
  readonly clients: { readonly active: number; readonly waiting: number; readonly max: number }
  readonly servers: { readonly active: number; readonly idle: number }
  /** Longest wait of a client now. */
  readonly maxWaitMs: number
  readonly totals: {
    readonly transactions: number
    readonly queries: number
    readonly receivedBytes: number
    readonly sentBytes: number
    readonly transactionMs: number
    readonly queryMs: number
    readonly waitMs: number
  }
}

export type ChangesFacts = {
  readonly server: string
  readonly state: string
  readonly error: string | null
  readonly startedAt: string
  readonly slot: string
  readonly confirmedLsn: string
  readonly lagBytes: number
  readonly logBytes: number
  readonly logFiles: number
  readonly newestAt: string | null
  /** Since the service started. */
  readonly transactions: number
  readonly changes: number
  readonly subscribers: readonly SubscriberFacts[]
}

export type SubscriberFacts = {
  readonly name: string
  readonly durable: boolean
  readonly connected: boolean
  readonly lagBytes: number
  readonly lagMs: number
  readonly sentBytes: number
}

export type DiskFacts = { readonly path: string; readonly totalBytes: number; readonly freeBytes: number }

export type CertificateFacts = {
  readonly name: string
  readonly path: string
  readonly validUntil: string | null
  readonly daysLeft: number | null
  readonly error: string | null
}

/** What a part says, or undefined when it could not be asked. */
export function known<T extends object>(facts: T | Unknown): Exclude<T, Unknown> | undefined {
  return 'error' in facts && Object.keys(facts).length === 1 ? undefined : (facts as Exclude<T, Unknown>)
}

/**
 * Postgres settings from the size of the machine, each with its reason. Pure.
 *
 * Memory is divided before anything is rounded, so that more memory never means a smaller value, and so that all of it together
 * (shared buffers, every connection and parallel worker at its limit, maintenance, autovacuum) stays below what the box may use.
 * Where this differs from pgtune, the table in the test says why.
 */
import type { Settings } from './postgres-config.ts'

/** `production`: the machine is the box's. `development`: a box beside other programs, on a machine that is somebody's. */
export type TuningProfile = 'production' | 'development'

export type TuningInput = {
  readonly memoryBytes: number
  /** Somebody said how much memory to tune for: then all of it counts, on a shared machine too. */
  readonly memoryIsGiven?: boolean
  /** May be a fraction. */
  readonly cpus: number
  readonly profile?: TuningProfile
  readonly tier?: 'primary' | 'replica' | 'sink'
  /** The volume is thrown away with the box: nothing that only pays off later is done in the background. */
  readonly ephemeral?: boolean
  /** Of the volume that holds pg_wal; undefined: large enough. */
  readonly volumeBytes?: number | undefined
  /** What a replica's primary has: Postgres does not replay with less of these. */
  readonly primary?: { readonly maxConnections: number; readonly maxWorkerProcesses: number } | undefined
  /** Whether the build of Postgres has LZ4, as those of all distributions do. */
  readonly lz4?: boolean
}

export type TunedSetting = {
  readonly name: string
  readonly value: string | number | boolean
  /** One line, for people. */
  readonly reason: string
  /** Whether a change waits for a restart of Postgres: context `postmaster` in pg_settings. */
  readonly restart: boolean
}

export type Tuning = {
  readonly settings: readonly TunedSetting[]
  readonly maxConnections: number
  /** What all PgBouncer workers together may open to one database. */
  readonly poolConnections: number
  /** The memory that was divided, in bytes. */
  readonly budgetBytes: number
}

/** Connections that the pools leave to superusers, the supervisor, CDC's queries and people who connect past the pooler. */
export const RESERVED_CONNECTIONS = 20

/** Context `postmaster` in pg_settings of Postgres 18; the test asks a server. */
const NEEDS_RESTART = new Set(['shared_buffers', 'huge_pages', 'max_connections', 'max_worker_processes', 'io_method'])

/** MB of memory, unless a name says otherwise; fractions until the end. */
export function planTuning(input: TuningInput): Tuning {
  const { profile = 'production', tier = 'primary', ephemeral = false, primary, lz4 = true } = input
  const machine = input.memoryBytes / 2 ** 20
  const isShared = profile === 'development'
  const takesShare = isShared && !input.memoryIsGiven
  const budget = takesShare ? Math.min(machine, clamp(machine / 8, 256, 2048)) : machine
  const cpus = Math.max(1, Math.floor(input.cpus))
  // For the kernel, the supervisor, PgBouncer and CDC. On a developer's machine the other seven eighths are there for those.
  const others = takesShare ? 0 : Math.min(1024, 48 + budget / 8)

  const sharedBuffers = Math.max(16, Math.min(budget / 4, (budget - others) / 3))
  const maintenance = clamp(budget / 16, 16, 2048)
  const autovacuumWorkers = ephemeral ? 1 : clamp(Math.floor(cpus / 2), 3, 8)
  const autovacuumMemory = clamp(budget / 16 / autovacuumWorkers, 1, 1024)

  const pool = clamp(16 * Math.sqrt(budget / 256), 16, 400)
  const connections = Math.max(Math.floor(pool) + RESERVED_CONNECTIONS, tier === 'replica' ? (primary?.maxConnections ?? 0) : 0)
  const parallel = Math.min(cpus, Math.max(1, budget / 128))
  const gather = Math.min(4, Math.floor(Math.min(cpus, parallel) / 2))
  const workers = Math.max(8, Math.floor(parallel) + 4, tier === 'replica' ? (primary?.maxWorkerProcesses ?? 0) : 0)

  const left = budget - others - sharedBuffers - maintenance - autovacuumMemory * autovacuumWorkers
  const sorters = Math.max(pool + RESERVED_CONNECTIONS, connections) + parallel
  const workMemory = clamp(left / (sorters * NODES_PER_PLAN), Math.min(1, budget / 256), 256)

  const volume = (input.volumeBytes ?? Number.POSITIVE_INFINITY) / 2 ** 20
  const walBound = Math.min(clamp(budget / 4, 512, 4096), isShared ? 1024 : 4096)
  const maxWal = Math.max(128, Math.min(walBound, volume / 10))
  const minWal = Math.max(80, maxWal / 4)

  const share = takesShare ? `of the ${text(budget)} that a box takes of a developer's machine (an eighth, at most 2GB)` : 'of memory'
  const settings: TunedSetting[] = []
  const set = (name: string, value: string | number | boolean, reason: string): void => {
    settings.push({ name, value, reason, restart: NEEDS_RESTART.has(name) })
  }

  set('shared_buffers', size(sharedBuffers), sharedBuffers < budget / 4 ? `less than a quarter ${share}: the programs beside Postgres need theirs` : `a quarter ${share}`)
  set('huge_pages', 'try', 'fewer page tables where the kernel has huge pages to give, and no failure where it has none')
  set('effective_cache_size', size((budget * 3) / 4), `three quarters ${share}, for the planner only`)
  set('work_mem', kilobytes(workMemory), `what is left, for ${Math.floor(sorters)} connections and parallel workers × ${NODES_PER_PLAN} (a hash, which counts twice, and a sort)`)
  set('maintenance_work_mem', size(maintenance), `a sixteenth ${share}, at most 2GB`)
  set('autovacuum_work_mem', kilobytes(autovacuumMemory), `a sixteenth ${share}, divided by its ${autovacuumWorkers} workers`)
  set('max_connections', connections, connectionsReason(Math.floor(pool), connections))

  set('max_worker_processes', workers, 'parallel workers and four for extensions and subscriptions')
  set('max_parallel_workers', Math.floor(parallel), 'one per processor, where each has 128MB')
  set('max_parallel_workers_per_gather', gather, 'half of the processors, at most 4: other queries want some too')
  set('max_parallel_maintenance_workers', gather, 'half of the processors, at most 4')
  set('io_method', 'worker', 'asynchronous reads of Postgres 18; io_uring is switched off on many kernels')
  set('io_workers', clamp(Math.floor(cpus / 4), 3, 32), 'a quarter of the processors, at least 3')
  set('effective_io_concurrency', 32, 'reads ahead in one scan: more than the I/O workers take at once would only wait')
  set('maintenance_io_concurrency', 32, 'as effective_io_concurrency')
  set('random_page_cost', 1.1, 'volumes are solid-state: a random read costs about as much as the next one')

  set('checkpoint_timeout', ephemeral ? '1h' : '30min', 'rarer checkpoints write fewer full pages: 2.9 times fewer bytes to a copy-on-write volume')
  set('checkpoint_completion_target', 0.9, 'writes are spread over the time between checkpoints')
  set('max_wal_size', size(maxWal), maxWalReason({ isShared, byVolume: volume / 10 < walBound }))
  set('min_wal_size', size(minWal), 'a quarter of max_wal_size is kept to be used again')
  set('wal_compression', lz4 ? 'lz4' : 'pglz', lz4 ? 'full pages compressed; zstd wrote 12 % more beneath a compressing volume' : 'full pages compressed; this build has no LZ4')
  set('wal_recycle', true, 'files used again: without, a copy-on-write volume took 9 % more bytes and 15 % more time')
  set('full_page_writes', true, 'a torn page must be repairable on every volume')

  set('autovacuum_max_workers', autovacuumWorkers, ephemeral ? 'one is enough for what is thrown away' : 'half of the processors, 3 to 8')
  set('autovacuum_naptime', ephemeral ? '10min' : '1min', ephemeral ? IDLE_FORK : "Postgres's own: shorter naps wake idle volumes")
  set('autovacuum_vacuum_cost_delay', ephemeral ? '20ms' : '2ms', ephemeral ? IDLE_FORK : "Postgres's own: throttled enough for solid-state volumes")
  set('autovacuum_vacuum_scale_factor', ephemeral ? 0.4 : 0.1, ephemeral ? IDLE_FORK : 'a tenth of a table, so that each run is short')
  set('autovacuum_vacuum_insert_scale_factor', ephemeral ? 0.4 : 0.2, ephemeral ? IDLE_FORK : "Postgres's own")
  set('autovacuum_analyze_scale_factor', ephemeral ? 0.2 : 0.05, ephemeral ? IDLE_FORK : 'statistics follow sooner than rows are vacuumed')

  return {
    settings: tier === 'sink' ? [] : settings,
    maxConnections: connections,
    poolConnections: Math.min(Math.floor(pool), connections - RESERVED_CONNECTIONS),
    budgetBytes: Math.floor(budget * 2 ** 20),
  }
}

/** Just the settings, as a layer of the configuration takes them. */
export function settingsOf({ settings }: Tuning): Settings {
  return Object.fromEntries(settings.map(({ name, value }) => [name, value]))
}

/** A hash may take twice work_mem (hash_mem_multiplier), a sort once. */
export const NODES_PER_PLAN = 3
const IDLE_FORK = 'throttled: an idle fork diverged by 306MB in 90s with eager autovacuum, by 0.1MB without'

function connectionsReason(pool: number, connections: number): string {
  const sum = `${pool} that the pools may open to a database and ${RESERVED_CONNECTIONS} in reserve`
  return connections > pool + RESERVED_CONNECTIONS ? `as many as the primary has, or a replica does not replay` : sum
}

function maxWalReason({ isShared, byVolume }: { isShared: boolean; byVolume: boolean }): string {
  if (byVolume) return 'a tenth of the volume'
  return isShared ? 'at most 1GB of a disk that is shared' : 'a quarter of memory, 512MB to 4GB: all of it is replayed after a crash, by one process'
}

const clamp = (value: number, low: number, high: number): number => Math.min(Math.max(value, low), high)
const size = (megabytes: number): string => `${Math.floor(megabytes)}MB`
const kilobytes = (megabytes: number): string => `${Math.floor(megabytes * 1024)}kB`
const text = (megabytes: number): string => (megabytes >= 1024 ? `${(megabytes / 1024).toFixed(1).replace(/\.0$/, '')}GB` : `${Math.floor(megabytes)}MB`)

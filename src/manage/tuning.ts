/** Postgres settings from the size of the machine. Pure; the full tuning with reasons comes with the management issue. */
import type { Settings } from './postgres-config.ts'

const MB = 1024 * 1024

/** Small floors, so that a machine of 512 MB works; ceilings, since a box on a developer's machine shares it. */
export function tune(machine: { memoryBytes: number; cpus: number }): Settings {
  const memory = Math.floor(machine.memoryBytes / MB)
  const cpus = Math.max(1, Math.floor(machine.cpus))
  const sharedBuffers = clamp(memory / 4, 32, 8192)
  const maxConnections = memory < 1024 ? 60 : 100
  // What is left, shared by all connections at once and two memory-hungry nodes in each plan.
  const workMem = clamp((memory - sharedBuffers) / (maxConnections * 2), 1, 64)
  return {
    shared_buffers: `${sharedBuffers}MB`,
    effective_cache_size: `${clamp((memory * 3) / 4, 64, 1_048_576)}MB`,
    work_mem: `${workMem}MB`,
    maintenance_work_mem: `${clamp(memory / 16, 16, 2048)}MB`,
    autovacuum_work_mem: `${clamp(memory / 48, 16, 512)}MB`, // counts per worker, of which there are three
    max_connections: maxConnections,
    max_worker_processes: Math.max(8, cpus + 4),
    max_parallel_workers: cpus,
    max_parallel_workers_per_gather: clamp(cpus / 2, 0, 4),
    max_wal_size: '2GB',
    min_wal_size: '256MB',
    checkpoint_completion_target: 0.9,
    random_page_cost: 1.1,
    huge_pages: 'try',
  }
}

const clamp = (value: number, low: number, high: number): number => Math.floor(Math.min(Math.max(value, low), high))

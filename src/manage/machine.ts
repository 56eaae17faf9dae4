/** What this process may use of the machine: memory, processors, open files. Reads /proc and the cgroup, version 2, along its whole path. */
import { readFileSync } from 'node:fs'
import { availableParallelism, totalmem } from 'node:os'
import { dirname, join } from 'node:path'

export type Machine = { readonly memoryBytes: number; readonly cpus: number; readonly openFiles: number }

export function readMachine(): Machine {
  return {
    memoryBytes: Math.min(totalmem(), ...cgroupPaths().map((path) => parseLimit(readOrEmpty(join(path, 'memory.max'))))),
    cpus: availableParallelism(), // knows cpusets and cpu.max
    openFiles: parseOpenFiles(readOrEmpty('/proc/self/limits')),
  }
}

/** `max` and nothing at all mean no limit. */
export function parseLimit(text: string): number {
  return /^\d+\s*$/.test(text) ? Number(text) : Number.POSITIVE_INFINITY
}

/** The soft limit of open files; 1024, the usual one, when it can't be read. */
export function parseOpenFiles(limits: string): number {
  const soft = /^Max open files\s+(\S+)/m.exec(limits)?.[1]
  if (soft === 'unlimited') return 1_048_576
  return soft === undefined ? 1024 : Number(soft)
}

function cgroupPaths(): readonly string[] {
  const own = /^0::(\/.*)$/m.exec(readOrEmpty('/proc/self/cgroup'))?.[1]
  const paths: string[] = []
  for (let path = own; path !== undefined && path !== '/'; path = dirname(path)) paths.push(join('/sys/fs/cgroup', path))
  return [...paths, '/sys/fs/cgroup'] // inside a namespace the root of the hierarchy has a limit of its own
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

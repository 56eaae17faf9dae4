/**
 * What a process may use of the machine: memory, processors, open files. Reads /proc and the limits of its control groups along
 * their whole path, since a parent's limit holds as well. Files only, so that a test can lay out a machine in a folder.
 * Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/
 */
import { readFileSync } from 'node:fs'
import { availableParallelism, totalmem } from 'node:os'
import { dirname, join } from 'node:path'

export type Machine = {
  readonly memoryBytes: number
  /** Where the figure comes from, for people. */
  readonly memoryFrom: string
  /** It was said, not found. */
  readonly memoryIsGiven: boolean
  /** May be a fraction, where time is limited rather than processors. */
  readonly cpus: number
  readonly cpusFrom: string
  readonly openFiles: number
}

export type MachineOptions = {
  /** Where /proc and /sys lie. */
  readonly root?: string
  /** Whose limits; by default those of this process. */
  readonly pid?: number | undefined
  /** What BEYOND_PG_MEMORY_MB says: it wins over all that is found. */
  readonly memoryMb?: number | undefined
}

type Limit = { readonly value: number; readonly from: string }

export function readMachine({ root = '/', pid, memoryMb }: MachineOptions = {}): Machine {
  const read = (path: string): string => readOrEmpty(join(root, path))
  const own = `/proc/${pid ?? 'self'}`
  const groups = controlGroups(read(`${own}/cgroup`))
  const limits = (file: string, parse: (text: string) => number, controller?: string): readonly Limit[] =>
    groups
      .filter((group) => group.controller === controller)
      .map((group) => ({ value: parse(read(join(group.path, file))), from: `${file} of ${group.path}` }))
  const quotaOfVersion1 = groups
    .filter((group) => group.controller === 'cpu')
    .map(({ path }) => ({
      value: parseCpuMax(`${read(join(path, 'cpu.cfs_quota_us')).trim()} ${read(join(path, 'cpu.cfs_period_us'))}`),
      from: `cpu.cfs_quota_us of ${path}`,
    }))
  const memory = least([
    { value: parseMemTotal(read('/proc/meminfo')) ?? totalmem(), from: 'MemTotal' },
    ...limits('memory.max', parseLimit),
    ...limits('memory.limit_in_bytes', parseLimit, 'memory'),
  ])
  const online = parseCpuList(read('/sys/devices/system/cpu/online'))
  const allowed = parseCpuList(/^Cpus_allowed_list:\s*(\S+)/m.exec(read(`${own}/status`))?.[1] ?? '')
  const cpus = least([
    { value: online?.size ?? availableParallelism(), from: 'processors online' },
    { value: online && allowed ? [...allowed].filter((cpu) => online.has(cpu)).length : Number.POSITIVE_INFINITY, from: `Cpus_allowed of ${own}` },
    ...limits('cpuset.cpus.effective', (text) => parseCpuList(text)?.size ?? Number.POSITIVE_INFINITY),
    ...limits('cpu.max', parseCpuMax),
    ...quotaOfVersion1,
  ])
  return {
    memoryBytes: memoryMb === undefined ? memory.value : memoryMb * 1024 * 1024,
    memoryFrom: memoryMb === undefined ? memory.from : 'BEYOND_PG_MEMORY_MB',
    memoryIsGiven: memoryMb !== undefined,
    cpus: cpus.value,
    cpusFrom: cpus.from,
    openFiles: parseOpenFiles(read(`${own}/limits`)),
  }
}

/** The first of the smallest ones. */
function least(limits: readonly [Limit, ...Limit[]]): Limit {
  return limits.reduce((a, b) => (b.value < a.value ? b : a))
}

/** `max` and nothing at all mean no limit; nothing may use no memory at all, so neither does zero count. */
export function parseLimit(text: string): number {
  const value = /^\d+\s*$/.test(text) ? Number(text) : 0
  return value > 0 ? value : Number.POSITIVE_INFINITY
}

/** `150000 100000` is one and a half processors; `max 100000` and `-1 100000` are all of them. */
export function parseCpuMax(text: string): number {
  const [, quota, period] = /^(\d+) (\d+)\s*$/.exec(text) ?? []
  return quota && Number(quota) > 0 && Number(period) > 0 ? Number(quota) / Number(period) : Number.POSITIVE_INFINITY
}

/** `0-3,8` → 0, 1, 2, 3, 8; undefined for nothing. */
export function parseCpuList(text: string): Set<number> | undefined {
  const cpus = new Set<number>()
  for (const [, first, last] of text.trim().matchAll(/(\d+)(?:-(\d+))?/g)) {
    for (let cpu = Number(first); cpu <= Number(last ?? first); cpu++) cpus.add(cpu)
  }
  return cpus.size > 0 ? cpus : undefined
}

/** The soft limit of open files; 1024, the usual one, when it can't be read. */
export function parseOpenFiles(limits: string): number {
  const soft = /^Max open files\s+(\S+)/m.exec(limits)?.[1]
  if (soft === 'unlimited') return 1_048_576
  return soft === undefined ? 1024 : Number(soft)
}

function parseMemTotal(meminfo: string): number | undefined {
  const kilobytes = /^MemTotal:\s+(\d+) kB/m.exec(meminfo)?.[1]
  return kilobytes === undefined ? undefined : Number(kilobytes) * 1024
}

/** `controller` undefined: version 2. */
type Group = { readonly controller: string | undefined; readonly path: string }

/**
 * Every folder from a process's own group up to the root of its hierarchy. Within a namespace the paths named in /proc may not
 * exist below the mount; the root of the mount does, and has the namespace's own limit.
 */
function controlGroups(text: string): readonly Group[] {
  const groups: Group[] = []
  const add = (controller: string | undefined, mount: string, path: string): void => {
    for (let at = path; ; at = dirname(at)) {
      groups.push({ controller, path: at === '/' ? mount : join(mount, at) })
      if (at === '/') return
    }
  }
  for (const [, controllers, path] of text.matchAll(/^\d+:([^:]*):(\/.*)$/gm)) {
    if (path === undefined || controllers === undefined) continue
    if (controllers === '') add(undefined, '/sys/fs/cgroup', path)
    for (const controller of controllers.split(',')) if (controller === 'memory' || controller === 'cpu') add(controller, `/sys/fs/cgroup/${controller}`, path)
  }
  return groups
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return '' // a limit that is not there does not limit
  }
}

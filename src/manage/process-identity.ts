/**
 * Which process a pid means. Numbers repeat soon in small machines, so a process is its pid, its start time and the boot it started in.
 * Source: proc_pid_stat(5), field 22.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { uptime } from 'node:os'
import { basename } from 'node:path'

export type ProcessIdentity = {
  readonly pid: number
  /** Clock ticks since boot, as the kernel prints them. */
  readonly startTime: string
  readonly bootId: string
}

/** State and start time from a line of /proc/PID/stat. The name in parentheses may itself hold parentheses and blanks. */
export function parseStat(line: string): { state: string; startTime: string } | undefined {
  const fields = line.slice(line.lastIndexOf(')') + 2).split(' ')
  const [state] = fields
  const startTime = fields[19]
  return state && startTime ? { state, startTime } : undefined
}

/** The process that has this pid now; undefined when there is none, or only its zombie. */
export function identify(pid: number): ProcessIdentity | undefined {
  const line = readProc(`/proc/${pid}/stat`)
  const stat = line === undefined ? undefined : parseStat(line)
  if (!stat || stat.state === 'Z' || stat.state === 'X') return undefined
  return { pid, startTime: stat.startTime, bootId: readProc('/proc/sys/kernel/random/boot_id')?.trim() ?? '' }
}

/** Processor time that it has used so far. Source: proc_pid_stat(5), fields 14 and 15; a clock tick is 10 ms on every Linux that Node runs on. */
export function cpuSeconds(pid: number): number | undefined {
  const line = readProc(`/proc/${pid}/stat`)
  const fields = line?.slice(line.lastIndexOf(')') + 2).split(' ')
  return fields && (Number(fields[11]) + Number(fields[12])) / 100
}

/** When it was started, milliseconds since 1970, about. */
export function startedAtMs(pid: number): number | undefined {
  const ticks = identify(pid)?.startTime
  return ticks === undefined ? undefined : Date.now() - uptime() * 1000 + Number(ticks) * 10
}

export function isAlive(process: ProcessIdentity): boolean {
  const now = identify(process.pid)
  return now !== undefined && now.startTime === process.startTime && now.bootId === process.bootId
}

/** Sends the signal if this very process still lives. */
export function signalProcess(target: ProcessIdentity, signal: NodeJS.Signals): void {
  if (!isAlive(target)) return
  try {
    process.kill(target.pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/**
 * All Postgres processes whose working directory is this data directory: the postmaster and its children, orphaned ones too.
 * Postgres changes into its data directory at start, and nothing else of ours does.
 */
export function postgresProcessesIn(dataDirectory: string): readonly ProcessIdentity[] {
  return readPids().flatMap((pid) => {
    const isPostgres = readLink(`/proc/${pid}/cwd`) === dataDirectory && basename(readLink(`/proc/${pid}/exe`) ?? '').startsWith('postgres')
    return isPostgres ? (identify(pid) ?? []) : []
  })
}

function readPids(): readonly number[] {
  try {
    return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number)
  } catch {
    return [] // no /proc here: nothing can be recognised
  }
}

// A process may go away between two looks at it; that is an answer, not an error.
function readProc(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

function readLink(path: string): string | undefined {
  try {
    return readlinkSync(path)
  } catch {
    return undefined
  }
}

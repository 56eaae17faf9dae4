/** Processes that an earlier start left working on a directory that is to be made anew: known by what they were told, or where they stand. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import type { Logger } from 'pino'
import { endProcess } from './leftovers.ts'
import { identify, type ProcessIdentity } from './process-identity.ts'

/** Ends every other process that has the path as an argument or stands in it. */
export async function endProcessesOf(path: string, logger: Logger, signal: AbortSignal): Promise<void> {
  for (const stray of processesOf(path)) {
    logger.warn({ childPid: stray.pid, path }, 'stopping what an earlier start left working here')
    await endProcess(stray, [{ signal: 'SIGKILL', withinMs: 5_000 }], signal)
  }
}

function processesOf(path: string): readonly ProcessIdentity[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .flatMap((pid) => {
      try {
        const isTold = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(path)
        return isTold || readlinkSync(`/proc/${pid}/cwd`) === path ? (identify(Number(pid)) ?? []) : []
      } catch {
        return [] // gone meanwhile, or not ours to look at
      }
    })
}

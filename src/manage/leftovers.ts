/**
 * Ends what an earlier supervisor left behind when it was killed. Runs under the lock, so none of it has a living supervisor.
 * (To adopt instead of ending it comes with the management issue.)
 */
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { BeyondError } from '../errors.ts'
import { readRecord, removeRecord } from './child-process.ts'
import type { Layout } from './layout.ts'
import { isAlive, postgresProcessesIn, type ProcessIdentity, signalProcess } from './process-identity.ts'

type Step = { readonly signal: NodeJS.Signals; readonly withinMs: number }

const STEPS: Readonly<Record<string, readonly Step[]>> = {
  initdb: [{ signal: 'SIGKILL', withinMs: 5_000 }],
  cdc: [
    { signal: 'SIGTERM', withinMs: 10_000 },
    { signal: 'SIGKILL', withinMs: 5_000 },
  ],
  pgbouncer: [
    { signal: 'SIGQUIT', withinMs: 2_000 },
    { signal: 'SIGKILL', withinMs: 5_000 },
  ],
  postgres: [
    { signal: 'SIGINT', withinMs: 60_000 },
    { signal: 'SIGQUIT', withinMs: 10_000 },
    { signal: 'SIGKILL', withinMs: 5_000 },
  ],
}

export async function stopLeftovers(layout: Layout, logger: Logger, signal: AbortSignal): Promise<void> {
  for (const name of ['initdb', 'cdc', 'pgbouncer', 'postgres']) {
    const process = name === 'postgres' ? (readRecord(layout.run, name) ?? unrecordedPostmaster(layout.postgres)) : readRecord(layout.run, name)
    if (process && isAlive(process)) {
      logger.warn({ child: name, childPid: process.pid }, 'stopping what an earlier start left behind')
      await end(process, STEPS[name], signal)
    }
    removeRecord(layout.run, name)
  }
  // Sockets and their lock files name processes that are gone; a number that was given out again would block the next start.
  for (const name of readdirSync(layout.sockets)) rmSync(join(layout.sockets, name), { recursive: true, force: true })
}

/** Before each start of Postgres, when none can be running: removes what would keep it from starting. */
export async function clearTheWay(layout: Layout, port: number, logger: Logger, signal: AbortSignal): Promise<void> {
  await endOrphans(layout.postgres, logger, signal)
  const lockFiles = [join(layout.postgres, 'postmaster.pid'), join(layout.sockets, `.s.PGSQL.${port}.lock`)]
  for (const path of lockFiles) removeStaleLock(path)
}

/** Backends whose postmaster was killed hold the shared memory, which keeps a new postmaster from starting. */
async function endOrphans(dataDirectory: string, logger: Logger, signal: AbortSignal): Promise<void> {
  const orphans = postgresProcessesIn(dataDirectory)
  if (orphans.length === 0) return
  logger.warn({ count: orphans.length }, 'stopping Postgres processes that lost their postmaster')
  for (const orphan of orphans) signalProcess(orphan, 'SIGQUIT')
  for (const orphan of orphans) await end(orphan, [{ signal: 'SIGQUIT', withinMs: 2_000 }, { signal: 'SIGKILL', withinMs: 5_000 }], signal)
}

/** A postmaster that was killed off before its record was written, or started by hand: the one that postmaster.pid names. */
function unrecordedPostmaster(dataDirectory: string): ProcessIdentity | undefined {
  const pid = lockFilePid(join(dataDirectory, 'postmaster.pid'))
  return postgresProcessesIn(dataDirectory).find((process) => process.pid === pid)
}

/**
 * Postgres removes a stale lock file itself, unless the number in it belongs to another process of its account by now,
 * or to a zombie that nobody reaps. Then, and only then, it is removed here: no Postgres of this data directory has it.
 */
function removeStaleLock(path: string): void {
  const pid = lockFilePid(path)
  if (pid !== undefined && existsSync(`/proc/${pid}`)) rmSync(path, { force: true })
}

function lockFilePid(path: string): number | undefined {
  const pid = existsSync(path) ? Number.parseInt(readFileSync(path, 'utf8'), 10) : Number.NaN
  return Number.isSafeInteger(pid) && pid > 0 ? pid : undefined
}

async function end(process: ProcessIdentity, steps: readonly Step[], signal: AbortSignal): Promise<void> {
  for (const step of steps) {
    signalProcess(process, step.signal)
    for (const deadline = Date.now() + step.withinMs; Date.now() < deadline; await sleep(20, undefined, { signal })) {
      if (!isAlive(process)) return
    }
  }
  throw new BeyondError('CHILD_FAILED', `Process ${process.pid} of an earlier start does not end: end it by hand and start again.`, {
    facts: { pid: process.pid },
  })
}

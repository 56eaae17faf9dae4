/**
 * One box per data directory. The lock is the kernel's (POSIX record locks, which SQLite takes on a database file),
 * so it ends with the process that holds it, however that process ends, and no pid is ever compared.
 */
import { DatabaseSync } from 'node:sqlite'
import { BeyondError } from '../errors.ts'

const SQLITE_BUSY = 5

/** Holds the lock file until disposed. Throws LOCKED when another process holds it; `holder` names that one if it can. */
export function lockDirectory(lockFile: string, directory: string, holder: () => number | undefined): Disposable {
  const database = new DatabaseSync(lockFile, { timeout: 0 })
  try {
    // Without a journal nothing is ever written: the lock is all that we want of the file.
    database.exec('PRAGMA journal_mode = OFF; PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE')
  } catch (error) {
    database.close()
    if ((error as { errcode?: number }).errcode !== SQLITE_BUSY) throw error
    const pid = holder()
    throw new BeyondError(
      'LOCKED',
      `Another box${pid === undefined ? '' : ` (process ${pid})`} runs on ${directory}: stop it first, or choose another directory with --data.`,
      { cause: error, facts: { path: directory, pid } },
    )
  }
  return { [Symbol.dispose]: () => database.close() }
}

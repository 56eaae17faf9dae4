/**
 * One process per directory. The lock is the kernel's (POSIX record locks, which SQLite takes on a database file), so it
 * ends with the process that holds it, however that process ends, and no pid is ever compared.
 */
import { DatabaseSync } from 'node:sqlite'
import { BeyondError, fromSystem } from './errors.ts'

const SQLITE_BUSY = 5
const SQLITE_FULL = 13
const SQLITE_CANTOPEN = 14

/** Holds the lock file until disposed. Throws LOCKED, with `sentence`, when another process holds it. */
export function lockFile(path: string, sentence: string): Disposable {
  let database: DatabaseSync
  try {
    database = new DatabaseSync(path, { timeout: 0 })
  } catch (error) {
    if ((error as { errcode?: number }).errcode === SQLITE_CANTOPEN)
      throw new BeyondError('NO_PERMISSION', `Can't open the lock file ${path}: check its owner and its folder.`, { cause: error, facts: { path } })
    throw fromSystem(error, `locking ${path}`)
  }
  try {
    // Without a journal nothing is ever written: the lock is all that we want of the file.
    database.exec('PRAGMA journal_mode = OFF; PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE')
  } catch (error) {
    database.close()
    const { errcode } = error as { errcode?: number }
    if (errcode === SQLITE_FULL) throw new BeyondError('DISK_FULL', `The disk is full while locking ${path}: make room and start again.`, { cause: error, facts: { path } })
    if (errcode !== SQLITE_BUSY) throw error
    throw new BeyondError('LOCKED', sentence, { cause: error, facts: { path } })
  }
  return { [Symbol.dispose]: () => database.close() }
}

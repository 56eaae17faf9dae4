/**
 * Where forks lie and what is written down of each: `forks/NAME` beside the data directory of their source, or a link there to where
 * they were asked to be. The forks of a fork are its siblings. What is half made or half removed has a name that begins with a dot.
 */
import { existsSync, lstatSync, mkdirSync, readdirSync, readlinkSync, realpathSync, renameSync, rmdirSync, rmSync, statSync, symlinkSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { lockFile } from '../directory-lock.ts'
import { BeyondError, codeOf } from '../errors.ts'
import { readIfThere, syncDirectory, writeFileAtomic } from './atomic-file.ts'
import { isSubvolume, removeSubvolume } from './snapshot-btrfs.ts'
import type { SnapshotMethod } from './snapshot.ts'
import { endProcessesOf } from './stray-processes.ts'

export type ForkPorts = { readonly pooler: number; readonly postgres: number; readonly quic: number }

/** fork.json, in the fork's own directory. */
export type ForkRecord = {
  readonly version: 1
  readonly name: string
  /** Data directory of the box that it was made from. */
  readonly source: string
  readonly method: SnapshotMethod
  /** ISO 8601. */
  readonly madeAt: string
  /** Everything that was committed up to here is in it; null where the source was stopped. */
  readonly lsn: string | null
  /** The source's too: pg_control is not touched. */
  readonly systemIdentifier: string
  readonly ports: ForkPorts
}

export type Fork = { readonly path: string; readonly record: ForkRecord }

const UNFINISHED = '.unfinished'
const REMOVED = '.removed'
const LOCK = '.lock'
const LOCK_PATIENCE_MS = 60_000
const LOOK_AGAIN_MS = 100
const RESERVED = ['list', 'start', 'stop', 'remove', 'help']

/** Throws BAD_ARGUMENT. */
export function checkForkName(name: string): void {
  if (RESERVED.includes(name)) throw bad(`${name} is a command of beyond-pg fork, so no fork can have that name: choose another one.`)
  if (!/^[A-Za-z0-9][\w-]{0,62}$/.test(name)) {
    throw bad(`A fork's name is up to 63 letters, digits, - and _, and begins with a letter or digit; ${JSON.stringify(name.slice(0, 80))} is not.`)
  }
}

/** `dataDirectory`: of the source, without symbolic links. */
export function forksFolder(dataDirectory: string): string {
  const parent = dirname(dataDirectory)
  const isFork = existsSync(join(dataDirectory, 'fork.json')) && basename(parent) === 'forks'
  return isFork ? parent : join(parent, 'forks')
}

export function readFork(path: string): Fork | undefined {
  if (!existsSync(path)) return undefined
  const real = realpathSync(path)
  const text = readIfThere(join(real, 'fork.json'))
  return text === undefined ? undefined : { path: real, record: JSON.parse(text) as ForkRecord }
}

export function writeForkRecord(directory: string, record: ForkRecord): void {
  writeFileAtomic(join(directory, 'fork.json'), `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 })
}

export function listForks(folder: string): readonly Fork[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder).filter((name) => !name.startsWith('.')).sort().flatMap((name) => readFork(join(folder, name)) ?? [])
}

/** Throws BAD_ARGUMENT when there is none of this name. */
export function findFork(folder: string, name: string): Fork {
  const fork = readFork(join(folder, name))
  if (fork) return fork
  const others = listForks(folder).map(({ record }) => record.name)
  throw bad(`There is no fork ${name} in ${folder}${others.length > 0 ? `: there ${others.length === 1 ? 'is' : 'are'} ${others.join(', ')}` : ', nor any other'}.`)
}

/** One fork is made or removed at a time. What an earlier try left half done is gone when this returns. */
export async function holdForks(folder: string, logger: Logger, signal: AbortSignal): Promise<Disposable> {
  const path = join(folder, LOCK)
  for (const deadline = Date.now() + LOCK_PATIENCE_MS; ; await sleep(LOOK_AGAIN_MS, undefined, { signal })) {
    mkdirSync(folder, { recursive: true, mode: 0o711 }) // the account of Postgres passes through; it reads nothing
    const before = statSync(path, { throwIfNoEntry: false })?.ino
    const lock = tryLock(path, folder, Date.now() > deadline)
    if (!lock) continue
    // Another one may have removed the file, and the lock with it, between our opening and our locking it.
    if (before !== undefined && statSync(path, { throwIfNoEntry: false })?.ino !== before) {
      lock[Symbol.dispose]()
      continue
    }
    await sweep(folder, logger, signal)
    return { [Symbol.dispose]: () => leave(folder, lock) }
  }
}

function tryLock(path: string, folder: string, isLast: boolean): Disposable | undefined {
  try {
    return lockFile(path, `Another fork is being made or removed in ${folder}: try again when it is done.`)
  } catch (error) {
    if (isLast || codeOf(error) !== 'LOCKED') throw error
    return undefined
  }
}

/** A folder without forks goes with its last one. */
function leave(folder: string, lock: Disposable): void {
  if (readdirSync(folder).every((name) => name.startsWith(LOCK))) {
    for (const name of readdirSync(folder)) rmSync(join(folder, name), { force: true }) // the lock's own
    try {
      rmdirSync(folder)
    } catch {
      // another one has just begun there
    }
  }
  lock[Symbol.dispose]()
}

/** Ends what works in half a fork, and removes that. */
async function sweep(folder: string, logger: Logger, signal: AbortSignal): Promise<void> {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name)
    const link = linkTarget(path)
    if (name.endsWith(UNFINISHED) || name.endsWith(REMOVED)) {
      await removeHalf(link ?? path, logger, signal)
      rmSync(path, { force: true })
    } else if (link !== undefined && !existsSync(path)) rmSync(path) // was about to be renamed into its place
  }
}

async function removeHalf(path: string, logger: Logger, signal: AbortSignal): Promise<void> {
  if (!existsSync(path)) return
  await endProcessesOf(join(path, 'postgres'), logger, signal)
  removeTree(path)
}

/** A directory, a subvolume, or a directory that holds one. */
export function removeTree(path: string): void {
  const postgres = join(path, 'postgres')
  if (isSubvolume(path)) return removeSubvolume(path)
  if (isSubvolume(postgres)) removeSubvolume(postgres)
  rmSync(path, { recursive: true, force: true })
}

const linkTarget = (path: string): string | undefined => (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() ? readlinkSync(path) : undefined)

export type Place = {
  /** Where the fork will be. */
  readonly path: string
  /** Where it is built. */
  readonly unfinished: string
  /** Renames it into its place. */
  readonly finish: () => void
  /** Removes what there is of it. */
  readonly giveUp: () => void
}

/** Under the lock. `at` undefined: in the folder itself. Throws where the name or the place is taken. */
export function newPlace(folder: string, name: string, at: string | undefined): Place {
  const named = join(folder, name)
  if (lstatSync(named, { throwIfNoEntry: false })) {
    throw bad(`There is a fork ${name} in ${folder} already: choose another name, or remove it with beyond-pg fork remove ${name}.`)
  }
  if (at === undefined) {
    const unfinished = join(folder, `.${name}${UNFINISHED}`)
    return { path: named, unfinished, finish: () => rename(unfinished, named), giveUp: () => removeTree(unfinished) }
  }
  if (lstatSync(at, { throwIfNoEntry: false })) throw bad(`${at} exists already: name a directory that does not with --at.`)
  mkdirSync(dirname(at), { recursive: true, mode: 0o755 })
  const path = join(realpathSync(dirname(at)), basename(at))
  const unfinished = join(dirname(path), `.${basename(path)}${UNFINISHED}`)
  if (lstatSync(unfinished, { throwIfNoEntry: false })) throw bad(`${unfinished} is in the way: another fork is being made there, or was; remove it if none is.`)
  const trace = join(folder, `.${name}${UNFINISHED}`)
  symlinkSync(unfinished, trace)
  const forget = (): void => rmSync(trace, { force: true })
  return {
    path,
    unfinished,
    finish: () => {
      symlinkSync(path, named)
      rename(unfinished, path)
      forget()
    },
    giveUp: () => {
      removeTree(unfinished)
      if (!existsSync(named)) rmSync(named, { force: true })
      forget()
    },
  }
}

/** Under the lock, when nothing of it runs any more. */
export function removeFork(folder: string, { path, record }: Fork): void {
  const named = join(folder, record.name)
  if (linkTarget(named) === undefined) {
    const removed = join(folder, `.${record.name}${REMOVED}`)
    rename(path, removed)
    return removeTree(removed)
  }
  const removed = join(dirname(path), `.${basename(path)}${REMOVED}`)
  symlinkSync(removed, join(folder, `.${record.name}${REMOVED}`))
  rename(path, removed)
  rmSync(named)
  removeTree(removed)
  rmSync(join(folder, `.${record.name}${REMOVED}`))
}

function rename(from: string, to: string): void {
  renameSync(from, to)
  syncDirectory(dirname(to))
}

const bad = (message: string): BeyondError => new BeyondError('BAD_ARGUMENT', message)

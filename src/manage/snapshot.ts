/**
 * A copy of a data directory of Postgres from which recovery makes the same database, while Postgres goes on writing:
 *
 * - `btrfs-snapshot`: the subvolume that it lies in, at one moment, as after a power cut;
 * - `reflink`: file by file, sharing their blocks (btrfs, XFS);
 * - `copy`: file by file, in full.
 *
 * Files that are copied one after the other are of different moments. So the copy is made during a base backup: Postgres writes whole
 * pages to its WAL meanwhile, and replaying that WAL from the backup's label makes them of one moment. No freeze of the file system is
 * needed, which only root may order, and under which a reflink would wait for ever.
 * As root the files are touched as the account that they belong to: what it puts in our way misleads only itself.
 * Sources: https://www.postgresql.org/docs/18/continuous-archiving.html#BACKUP-LOWLEVEL-BASE-BACKUP, ioctl_ficlone(2),
 * src/backend/backup/basebackup.c (what is left out)
 */
import { randomBytes } from 'node:crypto'
import { chownSync, existsSync, lstatSync, mkdirSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Client } from 'pg'
import { BeyondError, fromSystem } from '../errors.ts'
import type { Account } from './account.ts'
import { type Owner, writeFileAtomic } from './atomic-file.ts'
import { type DatabaseAddress, sqlStateOf, withDatabase } from './database-client.ts'
import { tellsDiskFull } from './log-line.ts'
import { runOnce } from './run-once.ts'
import { isSubvolume, removeSubvolume, snapshotSubvolume } from './snapshot-btrfs.ts'
import { unlessStopped } from './unless-stopped.ts'

export type SnapshotMethod = 'btrfs-snapshot' | 'reflink' | 'copy'

export type SnapshotOptions = {
  /** The box's directory, which may be a subvolume, and in it the data directory of Postgres, which may be one too. */
  readonly source: { readonly root: string; readonly postgres: string }
  /** Made here, with `postgres` in it; nothing may be there yet. */
  readonly target: string
  readonly account: Account
  readonly accountOwner: Owner | undefined
  readonly programs: { readonly postgres: string }
  /** How its superuser reaches the running Postgres; undefined when it is stopped, and can't start meanwhile. */
  readonly running: DatabaseAddress | undefined
  readonly environment: Readonly<Record<string, string>>
  readonly signal: AbortSignal
}

export type Snapshot = {
  readonly method: SnapshotMethod
  /** Everything that was committed up to here is in it; undefined when Postgres was stopped. */
  readonly lsn: string | undefined
}

/** The checkpoint at the beginning of a backup, and the copying during it. */
const BACKUP_MS = 3_600_000
const CONTROL_TRIES = 10

/** What belongs to the running server alone. The contents of the folders are left out, not the folders. */
const LEFT_OUT = new Set(['postmaster.pid', 'postmaster.opts', 'backup_label', 'backup_label.old', 'tablespace_map', 'tablespace_map.old', 'recovery.signal', 'current_logfiles', 'lost+found'])
const EMPTIED = ['pg_replslot', 'pg_dynshmem', 'pg_notify', 'pg_serial', 'pg_snapshots', 'pg_stat_tmp', 'pg_subtrans']
const WAL_FOLDERS = ['pg_wal', 'pg_wal/archive_status', 'pg_wal/summaries']

/** Throws where some of the database lies outside of its directory. */
export function checkWhole(postgres: string): void {
  const outside = lstatSync(join(postgres, 'pg_wal')).isSymbolicLink()
    ? 'pg_wal'
    : readdirSync(join(postgres, 'pg_tblspc')).filter((name) => lstatSync(join(postgres, 'pg_tblspc', name)).isSymbolicLink()).map((name) => `tablespace ${name}`)[0]
  if (outside === undefined) return
  throw new BeyondError('DATA_DIRECTORY', `${outside} of ${postgres} lies outside of it, and a fork would share it with its source: move it back into the directory first.`, {
    facts: { path: postgres },
  })
}

/** Leaves nothing on disk that is not needed; on failure what there is is left to the caller. */
export async function takeSnapshot(options: SnapshotOptions): Promise<Snapshot> {
  return (await snapshotOfSubvolume(options)) ?? (await copyFiles(options))
}

/** Undefined where it is no subvolume, or can't be had. */
async function snapshotOfSubvolume(options: SnapshotOptions): Promise<Snapshot | undefined> {
  const { source, target, running, account } = options
  const inner = isSubvolume(source.postgres)
  if (!inner && !isSubvolume(source.root)) return undefined
  const lsn = running && (await unlessStopped(options.signal, withDatabase(running, 60_000, orderlySince)))
  if (running && lsn === undefined) return undefined
  if (inner) makePassage(options)
  try {
    if (inner) snapshotSubvolume(source.postgres, join(target, 'postgres'))
    else snapshotSubvolume(source.root, target)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (['ENOSPC', 'EDQUOT'].includes(code ?? '')) throw fromSystem(error, `making a snapshot in ${dirname(target)}`)
    return undefined // another file system, or not ours to do
  }
  if (!inner) keepOnlyPostgres(target)
  const postgres = join(target, 'postgres')
  const contents = EMPTIED.flatMap((name) => (existsSync(join(postgres, name)) ? readdirSync(join(postgres, name)).map((entry) => join(postgres, name, entry)) : []))
  const rest = [...LEFT_OUT].map((name) => join(postgres, name))
  await run('rm', ['-rf', '--', ...contents, ...rest], options)
  if (account.separate) makePassage(options)
  return { method: 'btrfs-snapshot', lsn }
}

/**
 * A snapshot is what a power cut leaves, which is whole only if Postgres takes the care that this needs.
 * Answers where the WAL ends, or undefined.
 */
async function orderlySince(client: Client): Promise<string | undefined> {
  const { rows } = await client.query<{ careful: boolean; lsn: string }>(
    `SELECT current_setting('fsync')::bool AND current_setting('full_page_writes')::bool AS careful, pg_current_wal_flush_lsn()::text AS lsn`,
  )
  return rows[0].careful ? rows[0].lsn : undefined
}

/** The identity of a box, its logs and its change log are not for another one. */
function keepOnlyPostgres(target: string): void {
  for (const name of readdirSync(target)) if (name !== 'postgres') removeSubvolume(join(target, name))
}

async function copyFiles(options: SnapshotOptions): Promise<Snapshot> {
  const { source, target, running, accountOwner } = options
  const destination = join(target, 'postgres')
  makePassage(options)
  mkdirSync(destination, { mode: 0o700 })
  if (accountOwner) chownSync(destination, accountOwner.uid, accountOwner.gid)
  const method = (await sharesBlocks(source.postgres, destination, options)) ? 'reflink' : 'copy'
  if (!running) {
    await copyEntries(options, readdirSync(source.postgres).filter(isCopied), 'all')
    await makeFolders(EMPTIED, options)
    return { method, lsn: undefined }
  }
  const backup = withDatabase(running, BACKUP_MS, (client) => copyDuringBackup(client, options))
  try {
    return { method, lsn: await unlessStopped(options.signal, backup) }
  } catch (error) {
    if (options.signal.aborted || error instanceof BeyondError) throw error
    const because = (error as Error).message
    throw new BeyondError('POSTGRES_UNAVAILABLE', `Postgres did not let itself be copied to the end (${because}): try again.`, { cause: error })
  }
}

/** Answers where the backup ends. */
async function copyDuringBackup(client: Client, options: SnapshotOptions): Promise<string> {
  const { source, target, accountOwner: owner } = options
  await keepWal(client)
  const started = await client.query<{ file: string }>(`SELECT pg_walfile_name(pg_backup_start('beyond-pg fork', true)) AS file`)
  await copyEntries(options, readdirSync(source.postgres).filter((name) => isCopied(name) && name !== 'pg_wal'), 'those that stay')
  await makeFolders([...EMPTIED, ...WAL_FOLDERS], options)
  await copyControlFile(options)
  const stopped = await client.query<{ lsn: string; file: string; label: string }>(
    'SELECT lsn::text, pg_walfile_name(lsn) AS file, labelfile AS label FROM pg_backup_stop(wait_for_archive => false)',
  )
  const { lsn, file: last, label } = stopped.rows[0]
  const first = started.rows[0].file
  // Not one more: what the source writes after the backup would lie ahead of the fork, and fit where its own WAL ends.
  const segments = readdirSync(join(source.postgres, 'pg_wal')).filter((name) => name.endsWith('.history') || (/^[0-9A-F]{24}$/.test(name) && name >= first && name <= last))
  if (!segments.includes(first) || !segments.includes(last)) throw walIsGone(source.postgres)
  await copyEntries(options, segments.map((name) => join('pg_wal', name)), 'all', 'pg_wal')
  writeFileAtomic(join(target, 'postgres', 'backup_label'), label, { mode: 0o600, owner })
  return lsn
}

/** Until the session ends, WAL that the backup needs is not removed. Without a free slot we have to be quick. */
async function keepWal(client: Client): Promise<void> {
  const name = `beyond_fork_${randomBytes(4).toString('hex')}`
  try {
    await client.query('SELECT pg_create_physical_replication_slot($1, immediately_reserve => true, temporary => true)', [name])
  } catch (error) {
    if (sqlStateOf(error) !== '53400') throw error
  }
}

const isCopied = (name: string): boolean => !LEFT_OUT.has(name) && !EMPTIED.includes(name)

/** Files that are dropped while they are copied are dropped by the WAL, too: "those that stay". */
async function copyEntries(options: SnapshotOptions, entries: readonly string[], wanted: 'all' | 'those that stay', into = '.'): Promise<void> {
  if (entries.length === 0) return
  const { source, target } = options
  const said: string[] = []
  const paths = entries.map((entry) => join(source.postgres, entry))
  const args = ['-a', '--reflink=auto', '-t', join(target, 'postgres', into), '--', ...paths]
  const code = await run('cp', args, options, (line) => {
    if (said.length < 20 || !isGone(line)) said.push(line)
  })
  if (code === 0) return
  if (tellsDiskFull(said)) throw diskFull(target)
  const others = said.filter((line) => !isGone(line))
  if (others.length === 0 && wanted === 'those that stay') return
  if (others.length === 0) throw walIsGone(source.postgres)
  throw new BeyondError('CHILD_FAILED', `${source.postgres} can't be copied into ${target}: ${others[0].replace(/^cp: /, '')}.`)
}

/** All that was written to the file system of this path is on disk when this returns. */
export async function flush(path: string, environment: Readonly<Record<string, string>>, signal: AbortSignal): Promise<void> {
  const { code, failure, lastLines } = await runOnce({ program: 'sync', args: ['--file-system', '--', path], environment, signal })
  if (code === 0) return
  if (tellsDiskFull(lastLines)) throw diskFull(path)
  throw new BeyondError('CHILD_FAILED', `${path} could not be written to disk: ${failure ?? lastLines.at(-1) ?? `sync ended with exit code ${code}`}.`)
}

/** One is read while it may be written; its checksum tells. */
async function copyControlFile(options: SnapshotOptions): Promise<void> {
  const { source, target, programs } = options
  const copy = join(target, 'postgres')
  for (let tries = 0; tries < CONTROL_TRIES; tries++) {
    await run('cp', ['-a', '--remove-destination', '--', join(source.postgres, 'global', 'pg_control'), join(copy, 'global', 'pg_control')], options)
    const said: string[] = []
    const code = await run(join(dirname(programs.postgres), 'pg_controldata'), ['-D', copy], options, (line) => said.push(line))
    if (code === 0 && !said.some((line) => line.startsWith('WARNING') || line.startsWith('pg_controldata: warning'))) return
  }
  throw new BeyondError('POSTGRES_UNAVAILABLE', `pg_control of ${source.postgres} is written all the time: try again.`)
}

async function sharesBlocks(from: string, to: string, options: SnapshotOptions): Promise<boolean> {
  const probe = join(to, 'PG_VERSION')
  const shares = (await run('cp', ['-a', '--reflink=always', '--', join(from, 'PG_VERSION'), probe], options)) === 0
  await run('rm', ['-f', '--', probe], options)
  return shares
}

const makeFolders = (names: readonly string[], options: SnapshotOptions): Promise<number> =>
  run('mkdir', ['-p', '-m', '700', '--', ...names.map((name) => join(options.target, 'postgres', name))], options)

/** The account may pass through, no more. */
function makePassage({ target, account, accountOwner }: SnapshotOptions): void {
  if (!existsSync(target)) mkdirSync(target, { mode: 0o710 })
  if (accountOwner) chownSync(target, 0, account.gid)
}

/** Its exit code. */
async function run(program: string, args: readonly string[], { environment, account, signal }: SnapshotOptions, onLine?: (line: string) => void): Promise<number> {
  const { code, failure } = await runOnce({ program, args, environment, account, signal, ...(onLine ? { onLine } : {}) })
  if (code !== undefined) return code
  throw new BeyondError('CHILD_FAILED', `${program} could not be run to its end: ${failure ?? 'it said nothing'}.`)
}

const isGone = (line: string): boolean => line.endsWith(': No such file or directory')

const walIsGone = (path: string): BeyondError =>
  new BeyondError('POSTGRES_UNAVAILABLE', `Postgres removed WAL of ${path} that the copy needs before it was copied: free a replication slot (max_replication_slots), or try again.`)

export const diskFull = (path: string): BeyondError => new BeyondError('DISK_FULL', `The disk is full while making ${path}: make room, or choose another place with --at.`)

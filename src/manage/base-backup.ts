/**
 * A replica's beginning: its own slot on the primary, a base backup beside, renamed into place when it is whole. Through the programs
 * of Postgres, so that a connection string means here what it means in primary_conninfo. The password is in a file, never an argument.
 * Source: https://www.postgresql.org/docs/18/app-pgbasebackup.html
 */
import { chownSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Logger } from 'pino'
import { BeyondError } from '../errors.ts'
import { syncDirectory, writeFileAtomic } from './atomic-file.ts'
import { type Conninfo, formatConninfo, passfileLine, withoutPassword } from './conninfo.ts'
import { type Layout, readMarker } from './layout.ts'
import { tellsDiskFull } from './log-line.ts'
import { writeDataStubs } from './postgres-data.ts'
import type { Programs } from './programs.ts'
import { type Outcome, runOnce } from './run-once.ts'

export type BaseBackupOptions = {
  readonly layout: Layout
  readonly programs: Programs
  readonly conninfo: Conninfo
  readonly environment: Readonly<Record<string, string>>
  readonly logger: Logger
  readonly signal: AbortSignal
}

/** Named by the volume, so that a second try, and every later start, finds it again. */
export function replicaSlot(layout: Layout): string {
  const id = readMarker(layout)?.id
  if (id === undefined) throw new BeyondError('DATA_DIRECTORY', `${layout.marker} names no volume: a replica needs a directory that this version made.`)
  return `beyond_replica_${id}`
}

/** The connection string for Postgres itself: the password lies in a file that its account alone can read. */
export function primaryConninfo(layout: Layout, conninfo: Conninfo): string {
  const passfile = conninfo['password'] === undefined ? {} : { passfile: passfilePath(layout) }
  const { dbname: _database, ...rest } = withoutPassword(conninfo)
  return formatConninfo({ ...rest, ...passfile, application_name: conninfo['application_name'] ?? replicaSlot(layout) })
}

const passfilePath = (layout: Layout): string => join(layout.secrets, 'primary.pgpass')

/** The password file of the connection to the primary, when there is a password. */
export function replicaPassfile(layout: Layout, conninfo: Conninfo): { path: string; content: string } | undefined {
  const { password } = conninfo
  return password === undefined ? undefined : { path: passfilePath(layout), content: passfileLine(password) }
}

/** `layout.postgresUnfinished` must not exist. */
export async function copyPrimary({ layout, programs, conninfo, environment, logger, signal }: BaseBackupOptions): Promise<void> {
  const { postgresUnfinished: unfinished, account, accountOwner: owner } = layout
  const passfile = replicaPassfile(layout, conninfo)
  if (passfile) writeFileAtomic(passfile.path, passfile.content, { mode: 0o600, owner })
  const slot = replicaSlot(layout)
  const connection = primaryConninfo(layout, conninfo)
  const bin = dirname(programs.postgres)
  const run = async (name: string, args: readonly string[]): Promise<void> => {
    const onLine = (line: string): void => logger.info({ child: name }, line)
    const outcome = await runOnce({ program: join(bin, name), args: [...args, '--no-password', '-d', connection], environment, account, onLine, signal })
    if (outcome.code !== 0) throw failure(name, outcome, layout)
  }
  logger.info({ path: layout.postgres, slot }, 'copying the primary')
  await run('pg_receivewal', ['--create-slot', '--if-not-exists', '--slot', slot])
  mkdirSync(unfinished, { mode: 0o700 }) // the account may make nothing beside it
  if (owner) chownSync(unfinished, owner.uid, owner.gid)
  try {
    await run('pg_basebackup', ['-D', unfinished, '--wal-method', 'stream', '--slot', slot, '--checkpoint', 'fast'])
  } catch (error) {
    rmSync(unfinished, { recursive: true, force: true })
    throw error
  }
  // What the primary's own box keeps there for itself is not ours.
  for (const name of ['standby.signal', 'recovery.signal', 'postmaster.pid']) rmSync(join(unfinished, name), { force: true })
  writeDataStubs(unfinished, layout)
  writeFileAtomic(join(unfinished, 'standby.signal'), '', { mode: 0o600, owner })
  renameSync(unfinished, layout.postgres) // pg_basebackup has fsynced all below
  syncDirectory(layout.root)
}

function failure(name: string, { code, failure, lastLines }: Outcome, layout: Layout): BeyondError {
  if (tellsDiskFull(lastLines)) return new BeyondError('DISK_FULL', `The disk is full while copying the primary into ${layout.postgres}: make room and start again.`)
  const why = lastLines.findLast((line) => /error|fatal/i.test(line)) ?? lastLines.at(-1) ?? failure ?? `exit code ${code}`
  return new BeyondError('POSTGRES_UNAVAILABLE', `The primary can't be copied: ${why.replace(/^[\w-]+: error: /, '')} (from ${name}).`)
}

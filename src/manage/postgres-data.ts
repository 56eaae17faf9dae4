/**
 * The data directory of Postgres: made beside and renamed into place, or recognised as ours and of our version.
 * Nothing that is not ours is ever changed, and nothing is ever made where a database was before.
 */
import { existsSync, lstatSync, mkdirSync, chownSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { BeyondError } from '../errors.ts'
import { syncDirectory, writeFileAtomic } from './atomic-file.ts'
import { ChildProcess, describeExit } from './child-process.ts'
import { type Layout, readMarker, writeMarker } from './layout.ts'
import { tellsDiskFull } from './log-line.ts'
import { POSTGRES_MAJOR } from './programs.ts'
import { scramVerifier } from './scram.ts'

export type PostgresDataPlan = 'adopt' | 'make'

/** What `ensurePostgresData` would do. Reads only; throws where nothing may be done. */
export function planPostgresData(layout: Layout): PostgresDataPlan {
  if (lstatSync(layout.postgres, { throwIfNoEntry: false })) {
    checkPostgresData(layout)
    return 'adopt'
  }
  if (!readMarker(layout)?.initialized) return 'make'
  throw refused(
    layout.postgres,
    `${layout.postgres} is gone, and a database was there before: mount the volume or put the directory back; nothing was made in its place.`,
  )
}

export type PostgresDataOptions = {
  readonly layout: Layout
  readonly initdb: string
  readonly environment: Readonly<Record<string, string>>
  readonly adminPassword: string
  readonly logger: Logger
  readonly signal: AbortSignal
}

/** Afterwards `layout.postgres` is a complete data directory of our version. */
export async function ensurePostgresData(options: PostgresDataOptions): Promise<void> {
  const { layout, logger } = options
  if (planPostgresData(layout) === 'make') {
    removeUnfinished(layout, logger)
    await initialize(options)
  }
  markInitialized(layout)
}

/** What an interrupted initdb or base backup left. */
export function removeUnfinished(layout: Layout, logger: Logger): void {
  if (!existsSync(layout.postgresUnfinished)) return
  logger.warn({ path: layout.postgresUnfinished }, 'removing what an interrupted initdb or base backup left')
  rmSync(layout.postgresUnfinished, { recursive: true, force: true })
}

/** From now on a missing data directory is a loss, not a first start. */
export function markInitialized(layout: Layout): void {
  writeMarker(layout, { ...readMarker(layout), version: 1, initialized: true })
}

function checkPostgresData({ postgres, account }: Layout): void {
  const stats = lstatSync(postgres)
  if (!stats.isDirectory()) throw refused(postgres, `${postgres} is not a directory: move it out of the way and put the data directory back.`)
  if (stats.uid !== account.uid) {
    throw refused(
      postgres,
      `${postgres} belongs to another account (uid ${stats.uid}) than ${account.name} (uid ${account.uid}), which runs Postgres: start as its owner, or give it over with chown -R.`,
    )
  }
  const version = readVersion(postgres)
  if (version === undefined) {
    throw refused(postgres, `${postgres} has no PG_VERSION, so it is no complete data directory: put the right one back; nothing in it was touched.`)
  }
  if (version !== String(POSTGRES_MAJOR)) {
    throw refused(
      postgres,
      `${postgres} is of Postgres ${version}, and this is Postgres ${POSTGRES_MAJOR}: upgrade it with pg_upgrade, or choose another directory with --data.`,
    )
  }
}

/** What PG_VERSION says, cut to something printable. */
function readVersion(postgres: string): string | undefined {
  try {
    return readFileSync(join(postgres, 'PG_VERSION'), 'utf8').trim().replaceAll(/[^\w.]/g, '?').slice(0, 16)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

async function initialize({ layout, initdb, environment, adminPassword, logger, signal }: PostgresDataOptions): Promise<void> {
  logger.info({ path: layout.postgres }, 'making the data directory of Postgres')
  const { postgresUnfinished: unfinished, accountOwner: owner } = layout
  // initdb takes a verifier as well as a password; so not even this file, which the account reads, holds the password.
  const verifierFile = join(layout.run, 'admin.verifier')
  rmSync(verifierFile, { force: true })
  writeFileSync(verifierFile, `${scramVerifier(adminPassword)}\n`, { mode: 0o600, flag: 'wx' })
  mkdirSync(unfinished, { mode: 0o700 })
  if (owner) {
    chownSync(verifierFile, owner.uid, owner.gid)
    chownSync(unfinished, owner.uid, owner.gid)
  }
  const args = ['-D', unfinished, '-U', 'beyond_admin', '--pwfile', verifierFile, '--auth', 'scram-sha-256', '--encoding', 'UTF8']
  const locale = ['--locale-provider', 'builtin', '--locale', 'C.UTF-8', '--data-checksums', '--no-instructions']
  const onLine = (line: string) => logger.debug({ child: 'initdb' }, line)
  const command = { name: 'initdb', program: initdb, args: [...args, ...locale], environment, account: layout.account }
  const process = new ChildProcess(command, layout.run, { onLine })
  const abort = () => process.killGroup()
  signal.addEventListener('abort', abort)
  if (signal.aborted) abort()
  const exit = await process.exited
  signal.removeEventListener('abort', abort)
  rmSync(verifierFile, { force: true })
  if (exit.code !== 0) {
    rmSync(unfinished, { recursive: true, force: true })
    signal.throwIfAborted()
    const lines = process.lastLines
    if (tellsDiskFull(lines)) {
      throw new BeyondError('DISK_FULL', `The disk is full while making ${layout.postgres}: make room and start again.`)
    }
    const why = lines.findLast((line) => /error|fatal/i.test(line)) ?? lines.at(-1) ?? ''
    throw new BeyondError('CHILD_FAILED', `initdb ended with ${describeExit(exit)}: ${why}`)
  }
  writeDataStubs(unfinished, layout)
  renameSync(unfinished, layout.postgres) // initdb has fsynced all below
  syncDirectory(layout.root)
}

/** Postgres is configured outside of its data directory; what lies in it says so to whoever looks there. */
export function writeDataStubs(directory: string, { config, accountOwner: owner }: Layout): void {
  for (const name of ['postgresql.conf', 'pg_hba.conf', 'pg_ident.conf']) {
    const text = `# Not used: this box is configured in ${config}; your settings belong in its conf.d/99-user.conf.\n`
    writeFileAtomic(join(directory, name), text, { mode: 0o600, owner })
  }
}

const refused = (path: string, message: string): BeyondError => new BeyondError('DATA_DIRECTORY', message, { facts: { path } })

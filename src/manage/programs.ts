/** Finds Postgres 18 and PgBouncer, and checks that they are of a version that will do and that the account can run them. */
import { spawnSync } from 'node:child_process'
import { accessSync, constants, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { BeyondError } from '../errors.ts'
import { type Account, firstUnreachable } from './account.ts'
import type { BoxConfig } from './box-config.ts'

export type Programs = {
  readonly postgres: string
  readonly initdb: string
  readonly psql: string
  readonly pgbouncer: string
  /** Whether Postgres was built with LZ4: one that wasn't doesn't start with it. */
  readonly lz4: boolean
}

export const POSTGRES_MAJOR = 18
const PGBOUNCER_MINIMUM = [1, 24] as const
const USUAL_BINDIR = `/usr/lib/postgresql/${POSTGRES_MAJOR}/bin`
const USUAL_PGBOUNCER = '/usr/sbin/pgbouncer'

export function findPrograms(config: BoxConfig, account: Account, searchPath: string): Programs {
  const bin = config.postgresBinDir ?? USUAL_BINDIR
  const programs = {
    postgres: join(bin, 'postgres'),
    initdb: join(bin, 'initdb'),
    psql: psqlToSuggest(join(bin, 'psql'), searchPath),
    pgbouncer: config.pgbouncer ?? findOnPath('pgbouncer', searchPath) ?? USUAL_PGBOUNCER,
  }
  const blocked = firstUnreachable(account, 'x', [programs.postgres, programs.initdb, programs.pgbouncer])
  if (blocked !== undefined) {
    throw missing(`Account ${account.name} can't run ${blocked}: install it, or say where it is with BEYOND_PG_BINDIR and BEYOND_PGBOUNCER.`)
  }
  const postgresVersion = parseVersion(versionOf(programs.postgres))
  if (postgresVersion[0] !== POSTGRES_MAJOR) {
    throw missing(`Postgres ${POSTGRES_MAJOR} is needed, and ${programs.postgres} is ${postgresVersion.join('.') || 'something else'}: set BEYOND_PG_BINDIR.`)
  }
  const [major, minor] = parseVersion(versionOf(programs.pgbouncer))
  if (major !== PGBOUNCER_MINIMUM[0] || minor < PGBOUNCER_MINIMUM[1]) {
    throw missing(`PgBouncer ${PGBOUNCER_MINIMUM.join('.')} or later is needed, and ${programs.pgbouncer} is ${major}.${minor}: set BEYOND_PGBOUNCER.`)
  }
  return { ...programs, lz4: linksLz4(programs.postgres) }
}

/** Looks for the name of the library, which is faster than asking the program. Where another way of linking hides it, pglz will do. */
export function linksLz4(program: string): boolean {
  return readFileSync(program).includes('liblz4.')
}

/** `postgres (PostgreSQL) 18.6 (Debian 18.6-3)` → [18, 6]; nothing for other text. */
export function parseVersion(text: string): readonly number[] {
  const match = /\b(\d+)(?:\.(\d+)|(?:beta|rc)\d+)/.exec(text)
  return match ? [Number(match[1]), Number(match[2] ?? 0)] : []
}

/** The psql that people will type: the one on their path when it is of our version, else ours. */
function psqlToSuggest(ours: string, searchPath: string): string {
  const theirs = findOnPath('psql', searchPath)
  return theirs !== undefined && parseVersion(versionOf(theirs))[0] === POSTGRES_MAJOR ? 'psql' : ours
}

function findOnPath(name: string, searchPath: string): string | undefined {
  return searchPath
    .split(':')
    .filter((folder) => folder.startsWith('/'))
    .map((folder) => join(folder, name))
    .find(isExecutable)
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

function versionOf(program: string): string {
  const result = spawnSync(program, ['--version'], { encoding: 'utf8', timeout: 10_000 })
  return result.stdout ?? ''
}

const missing = (message: string): BeyondError => new BeyondError('PROGRAM_MISSING', message)

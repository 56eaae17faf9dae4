// Postgres 18 and PgBouncer: those of the machine where they fit, else those of our own prefix.

import { existsSync, statSync } from 'node:fs'
import { delimiter, isAbsolute, join, resolve } from 'node:path'
import { run } from './command.mjs'
import { SetupFailure } from './failure.mjs'
import { findPrefix, makePrefix, programsOf } from './prefix.mjs'
import { atLeast, formatVersion, leastPgbouncer, postgresMajor, versionIn } from './versions.mjs'

/** @typedef {import('./ensure.mjs').Context} Context */
/** @typedef {{ bindir: string, pgbouncer: string }} Programs */

/** What a bin directory must hold to be of use: the server's programs and the client's. */
const needed = ['postgres', 'initdb', 'psql', 'pg_controldata']

/**
 * @param {Context} context
 * @returns {Promise<Programs>} absolute paths
 * @throws {SetupFailure}
 */
export async function ensurePostgres(context) {
  const bindir = await machineBindir(context)
  const pgbouncer = await machinePgbouncer(context)
  if (bindir !== undefined && pgbouncer !== undefined) return { bindir, pgbouncer }
  const own = programsOf(findPrefix(context.caches) ?? await context.exclusively(async () => findPrefix(context.caches) ?? makePrefix(context)))
  return { bindir: bindir ?? own.bindir, pgbouncer: pgbouncer ?? own.pgbouncer }
}

/** @param {Context} context */
async function machineBindir(context) {
  const { env } = context
  if (env.BEYOND_PG_BINDIR) {
    const bindir = resolve(env.BEYOND_PG_BINDIR)
    const version = await versionOf(context, join(bindir, 'postgres'))
    if (!version) throw new SetupFailure(`BEYOND_PG_BINDIR names ${bindir}, where no postgres runs: set it to the folder with Postgres 18's programs, or unset it.`)
    if (version[0] !== postgresMajor) throw new SetupFailure(`BEYOND_PG_BINDIR names Postgres ${formatVersion(version)}, and 18 is needed: set it to Postgres 18's folder, or unset it.`)
    return bindir
  }
  for (const candidate of [`/usr/lib/postgresql/${postgresMajor}/bin`, await configuredBindir(context)]) {
    if (candidate === undefined || !needed.every((name) => existsSync(join(candidate, name)))) continue
    if ((await versionOf(context, join(candidate, 'postgres')))?.[0] === postgresMajor) return candidate
  }
  return undefined
}

/** @param {Context} context */
async function configuredBindir({ env, signal }) {
  if (!onPath('pg_config', env)) return undefined
  const { code, stdout } = await run('pg_config', ['--bindir'], { env, signal })
  return code === 0 && isAbsolute(stdout.trim()) ? stdout.trim() : undefined
}

/** @param {Context} context */
async function machinePgbouncer(context) {
  const { env } = context
  if (env.BEYOND_PGBOUNCER) {
    const path = resolve(env.BEYOND_PGBOUNCER)
    const version = await versionOf(context, path)
    if (!version) throw new SetupFailure(`BEYOND_PGBOUNCER names ${path}, which does not run: set it to PgBouncer's program, or unset it.`)
    if (!atLeast(version, leastPgbouncer)) {
      throw new SetupFailure(`BEYOND_PGBOUNCER names PgBouncer ${formatVersion(version)}, and ${formatVersion(leastPgbouncer)} or later is needed: set it to such a one, or unset it.`)
    }
    return path
  }
  for (const candidate of new Set([onPath('pgbouncer', env), '/usr/sbin/pgbouncer'])) {
    if (candidate === undefined || !isFile(candidate)) continue
    const version = await versionOf(context, candidate)
    if (version && atLeast(version, leastPgbouncer)) return candidate
  }
  return undefined
}

/**
 * @param {Context} context
 * @param {string} program
 */
async function versionOf({ signal }, program) {
  const { code, stdout } = await run(program, ['--version'], { signal })
  return code === 0 ? versionIn(stdout) : undefined
}

/**
 * @param {string} name
 * @param {NodeJS.ProcessEnv} env
 */
function onPath(name, env) {
  return (env.PATH ?? '').split(delimiter).filter(isAbsolute).map((folder) => join(folder, name)).find(isFile)
}

/** @param {string} path */
function isFile(path) {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false
}

// All that a program of the tree needs, made ready: looks before it acts, acts only on what is missing.

import { existsSync, mkdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { asFailure } from './failure.mjs'
import { lock } from './lock.mjs'
import { ensurePackages } from './npm-packages.mjs'
import { platformOf } from './platform.mjs'
import { ensurePostgres } from './postgres.mjs'
import { findPrefix, programsOf } from './prefix.mjs'
import { progressOn } from './progress.mjs'

/**
 * @typedef {object} Context
 * @property {string} root the clone
 * @property {string} cache where what is not of npm is put
 * @property {readonly string[]} caches where it is looked for
 * @property {NodeJS.ProcessEnv} env
 * @property {import('./platform.mjs').Platform} platform
 * @property {import('./progress.mjs').Progress} progress
 * @property {AbortSignal | undefined} signal
 * @property {<T>(act: () => Promise<T>) => Promise<T>} exclusively runs what changes something, one set-up at a time
 */

/**
 * @typedef {object} Ready
 * @property {string} node the path of Node
 * @property {NodeJS.ProcessEnv} env the environment for the program: BEYOND_PG_BINDIR and BEYOND_PGBOUNCER are set, absolute
 */

/** The clone that this file belongs to. */
export const root = dirname(dirname(fileURLToPath(import.meta.url)))

/** Where all accounts find what root has set up. */
const sharedCache = '/var/cache/beyond-pg'

/**
 * @param {{ postgres?: boolean, signal?: AbortSignal | undefined, env?: NodeJS.ProcessEnv }} [options] postgres: whether the program needs it
 * @returns {Promise<Ready>}
 * @throws {import('./failure.mjs').SetupFailure}
 */
export async function ensure({ postgres = true, signal, env = process.env } = {}) {
  const progress = progressOn(process.stderr)
  const caches = cachesFor(root, env, process.getuid?.() === 0)
  const cache = caches[0] ?? sharedCache
  /** @type {Context} */
  const context = {
    root,
    cache,
    caches,
    env,
    platform: platformOf(),
    progress,
    signal,
    async exclusively(act) {
      mkdirSync(cache, { recursive: true })
      const onWait = (/** @type {string} */ pid) => progress.begin(`Waiting for another set-up, process ${pid}`)
      const release = await lock(join(cache, 'setup.lock'), { signal, onWait })
      try {
        return await act()
      } finally {
        release()
      }
    },
  }
  try {
    const node = await ensurePackages(context)
    const prefix = postgres ? undefined : findPrefix(caches)
    const programs = postgres ? await ensurePostgres(context) : prefix && programsOf(prefix)
    const found = programs && { BEYOND_PG_BINDIR: programs.bindir, BEYOND_PGBOUNCER: programs.pgbouncer }
    return { node, env: postgres ? { ...env, ...found } : { ...found, ...env } }
  } catch (error) {
    throw asFailure(error, `setting up in ${root}`)
  } finally {
    progress.clear()
  }
}

/**
 * Where to put what is not of npm (first), and where to look for it. Postgres, started by root, runs as another account,
 * which can't reach a clone in a folder of root's own.
 * @param {string} clone
 * @param {NodeJS.ProcessEnv} env
 * @param {boolean} isRoot
 * @param {(path: string) => boolean} [passable]
 * @returns {string[]}
 */
export function cachesFor(clone, env, isRoot, passable = passableByAll) {
  if (env.BEYOND_PG_CACHE) return [env.BEYOND_PG_CACHE]
  const own = join(clone, '.cache')
  if (isRoot && !passable(clone)) return [sharedCache]
  return existsSync(sharedCache) ? [own, sharedCache] : [own]
}

/** @param {string} path */
function passableByAll(path) {
  for (let folder = path; ; folder = dirname(folder)) {
    if ((statSync(folder).mode & 0o001) === 0) return false
    if (folder === dirname(folder)) return true
  }
}

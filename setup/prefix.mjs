// Postgres 18 and PgBouncer in a prefix of our own, from the distribution's archive, with the libraries that they were built for.
// The machine's own packages are neither asked nor changed.
//
// A prefix is built in a folder with a new name and never moves, since its programs hold their libraries' absolute paths.
// What is renamed into place, when everything has been tried, is the stamp that names it.

import { randomBytes } from 'node:crypto'
import {
  existsSync, mkdirSync, openSync, readdirSync, readFileSync, readlinkSync, readSync, closeSync, realpathSync, renameSync, rmSync, statfsSync, statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { aptConfiguration, aptSentence, downloadPercent, mirrorsIn, sourcesLine, targetsFormat, wantedPackages } from './archive.mjs'
import { run } from './command.mjs'
import { commonSentence, SetupFailure } from './failure.mjs'
import { distributionOf, readOsRelease } from './platform.mjs'
import { formatVersion, versionIn } from './versions.mjs'

/** @typedef {import('./ensure.mjs').Context} Context */
/** @typedef {import('./platform.mjs').Distribution} Distribution */
/** @typedef {{ recipe: number, prefix: string, packages: string[] }} Stamp */

/** Rises when this file makes prefixes in another way. */
const recipe = 2
const stampName = 'postgres-18.json'
const prefixStart = 'postgres-18-'
/** What the download and the prefix take at most, in bytes. */
const neededSpace = 700e6

/** What comes along and is of no use here: half of the whole. */
const unneeded = ['doc', 'man', 'locale', 'i18n', 'perl', 'perl5', 'info', 'lintian'].map((name) => `usr/share/${name}`)
/** Where the archive's Postgres reads time zones, wherever Postgres itself is. */
const timeZones = '/usr/share/zoneinfo/Etc/UTC'

/** @param {string} prefix */
export function programsOf(prefix) {
  return { bindir: join(prefix, 'usr/lib/postgresql/18/bin'), pgbouncer: join(prefix, 'usr/sbin/pgbouncer') }
}

/**
 * The prefix in one of these folders, if there is a finished one.
 * @param {readonly string[]} caches
 * @returns {string | undefined}
 */
export function findPrefix(caches) {
  for (const cache of caches) {
    try {
      /** @type {Stamp} */
      const stamp = JSON.parse(readFileSync(join(cache, stampName), 'utf8'))
      // A cache that was moved or copied holds programs that look for their libraries elsewhere.
      if (stamp.recipe !== recipe || dirname(stamp.prefix) !== realpathSync(cache)) continue
      const programs = programsOf(stamp.prefix)
      if (existsSync(join(programs.bindir, 'postgres')) && existsSync(programs.pgbouncer)) return stamp.prefix
    } catch {
      // No stamp, or not one of ours: nothing to find here.
    }
  }
  return undefined
}

/**
 * Makes one. To be called by one process at a time.
 * @param {Context} context
 * @returns {Promise<string>} its path
 * @throws {SetupFailure}
 */
export async function makePrefix(context) {
  const { progress, signal } = context
  const distribution = usableDistribution(await run('apt-get', ['--version'], { signal }))
  mkdirSync(context.cache, { recursive: true })
  const cache = realpathSync(context.cache)
  requireSpace(cache)
  if (!existsSync(timeZones)) throw new SetupFailure(`Postgres needs the machine's time zone data, which is missing (${timeZones}): install the package tzdata, and start again.`)
  removeOldPrefixes(cache)

  const prefix = join(cache, prefixStart + randomBytes(4).toString('hex'))
  try {
    progress.begin(`Postgres 18 and PgBouncer from the ${distribution.name} archive`)
    const folder = join(cache, 'apt')
    const debs = await download(context, distribution, folder)
    await unpack(context, debs, prefix)
    const versions = await patchAndTry(context, prefix)
    /** @type {Stamp} */
    const stamp = { recipe, prefix, packages: debs.map((path) => decodeURIComponent(path.slice(path.lastIndexOf('/') + 1, -'.deb'.length))) }
    writeFileSync(join(cache, `${stampName}.new`), `${JSON.stringify(stamp, null, 2)}\n`)
    renameSync(join(cache, `${stampName}.new`), join(cache, stampName))
    rmSync(folder, { recursive: true, force: true })
    progress.done(`Postgres ${versions.postgres} and PgBouncer ${versions.pgbouncer} in ${prefix}`)
    return prefix
  } catch (error) {
    rmSync(prefix, { recursive: true, force: true })
    throw error
  }
}

/** @param {import('./command.mjs').Result} apt what asking for apt's version gave */
function usableDistribution(apt) {
  const distribution = distributionOf(readOsRelease())
  const instead = "install Postgres 18 and PgBouncer 1.24 or later yourself (BEYOND_PG_BINDIR and BEYOND_PGBOUNCER say where), and start again."
  if (!distribution || apt.code !== 0) throw new SetupFailure(`There is no Postgres 18 here, and set-up can fetch it only on Debian and Ubuntu: ${instead}`)
  if (!existsSync(distribution.keyring)) throw new SetupFailure(`The keyring of the ${distribution.name} archive (${distribution.keyring}) is missing: install it, or ${instead}`)
  return distribution
}

/** @param {string} folder */
function requireSpace(folder) {
  const { bavail, bsize } = statfsSync(folder)
  if (bavail * bsize < neededSpace) {
    throw new SetupFailure(`The disk that holds ${folder} has ${Math.round((bavail * bsize) / 1e6)} MB left and Postgres 18 needs ${neededSpace / 1e6} MB: `
      + 'make room, or set BEYOND_PG_CACHE to a folder elsewhere.')
  }
}

/** Prefixes without a valid stamp, unless a program of theirs still runs. @param {string} cache */
function removeOldPrefixes(cache) {
  const running = readdirSync('/proc').flatMap((pid) => {
    try {
      return /^\d+$/.test(pid) ? [readlinkSync(`/proc/${pid}/exe`)] : []
    } catch {
      return []
    }
  })
  for (const name of readdirSync(cache)) {
    const path = join(cache, name)
    if (name.startsWith(prefixStart) && statSync(path).isDirectory() && !running.some((exe) => exe.startsWith(`${path}/`))) {
      rmSync(path, { recursive: true, force: true })
    }
  }
}

/**
 * @param {Context} context
 * @param {Distribution} distribution
 * @param {string} folder apt's; an interrupted download goes on there
 * @returns {Promise<string[]>} the package files
 */
async function download({ env, platform, progress, signal }, distribution, folder) {
  const conf = join(folder, 'apt.conf')
  for (const path of ['state/lists/partial', 'cache/archives/partial', 'log']) mkdirSync(join(folder, path), { recursive: true })
  writeFileSync(join(folder, 'state/status'), '')
  writeFileSync(conf, aptConfiguration(folder, platform.debArch))
  const plain = { ...env, LC_ALL: 'C' }

  const targets = await run('apt-get', ['indextargets', '--no-release-info', '--format', targetsFormat], { env: plain, signal })
  const mirrors = env.BEYOND_PG_MIRROR ? [env.BEYOND_PG_MIRROR] : mirrorsIn(targets.stdout, distribution)
  if (mirrors.length === 0) throw new SetupFailure(`apt has no ${distribution.name} mirror configured: set BEYOND_PG_MIRROR to the address of one, and start again.`)
  progress.detail('package lists')
  let firstFailure = ''
  for (const mirror of mirrors) {
    writeFileSync(join(folder, 'sources.list'), sourcesLine(mirror, distribution, platform.debArch))
    const { code, output } = await run('apt-get', ['-q', '-c', conf, 'update'], { env: plain, signal })
    firstFailure = code === 0 ? '' : firstFailure || output
    if (code === 0) break
  }
  if (firstFailure) throw new SetupFailure(aptSentence(firstFailure, distribution))

  const { code, output } = await run('apt-get', ['-q', '-c', conf, '-o', 'APT::Status-Fd=3', '--download-only', 'install', ...wantedPackages], {
    env: plain,
    signal,
    onStatus: (line) => {
      const percent = downloadPercent(line)
      if (percent !== undefined) progress.detail(`downloading, ${percent} %`)
    },
  })
  if (code !== 0) throw new SetupFailure(aptSentence(output, distribution))
  const archives = join(folder, 'cache/archives')
  return readdirSync(archives).filter((name) => name.endsWith('.deb')).map((name) => join(archives, name)).sort()
}

/**
 * @param {Context} context
 * @param {readonly string[]} debs
 * @param {string} prefix
 */
async function unpack({ progress, signal }, debs, prefix) {
  mkdirSync(prefix)
  for (const [index, deb] of debs.entries()) {
    progress.detail(`unpacking, ${index + 1} of ${debs.length}`)
    await must('dpkg-deb', ['-x', deb, prefix], 'unpacking Postgres 18', signal)
  }
  for (const path of unneeded) rmSync(join(prefix, path), { recursive: true, force: true })
  // Postgres runs as another account than the one that set it up.
  await must('chmod', ['-R', 'u+rwX,go+rX', prefix], 'unpacking Postgres 18', signal)
}

/**
 * @param {Context} context
 * @param {string} prefix
 * @returns {Promise<{ postgres: string, pgbouncer: string }>} the versions
 */
async function patchAndTry({ platform, progress, signal }, prefix) {
  progress.detail('trying')
  const libraries = librariesOf(prefix, platform)
  const { bindir, pgbouncer } = programsOf(prefix)
  const programs = [...readdirSync(bindir).map((name) => join(bindir, name)).filter(isElf), pgbouncer]
  // DT_RPATH and not DT_RUNPATH: only the former holds for the libraries of the libraries as well.
  const paths = ['--force-rpath', '--set-rpath', libraries, '--set-interpreter', realpathSync(join(libraries, platform.loader))]
  await patchelf(prefix, platform, [...paths, ...programs], signal)

  const versions = { postgres: join(bindir, 'postgres'), pgbouncer, psql: join(bindir, 'psql'), initdb: join(bindir, 'initdb') }
  for (const [name, path] of Object.entries(versions)) {
    const { stdout } = await must(path, ['--version'], 'trying Postgres 18', signal)
    versions[/** @type {keyof typeof versions} */ (name)] = formatVersion(versionIn(stdout) ?? [0, 0])
  }
  return versions
}

/**
 * @param {string} prefix
 * @param {import('./platform.mjs').Platform} platform
 */
export function librariesOf(prefix, platform) {
  return join(prefix, 'usr/lib', platform.triplet)
}

/**
 * Runs the prefix's patchelf, with the prefix's libraries whatever the machine has.
 * @param {string} prefix
 * @param {import('./platform.mjs').Platform} platform
 * @param {readonly string[]} args
 * @param {AbortSignal | undefined} signal
 */
export async function patchelf(prefix, platform, args, signal) {
  const libraries = librariesOf(prefix, platform)
  const program = [join(libraries, platform.loader), '--library-path', libraries, join(prefix, 'usr/bin/patchelf')]
  await must(program[0] ?? '', [...program.slice(1), ...args], 'preparing the programs of Postgres and Node', signal)
}

/** @param {string} path */
function isElf(path) {
  if (!statSync(path).isFile()) return false
  const file = openSync(path, 'r')
  try {
    const head = Buffer.alloc(4)
    return readSync(file, head, 0, 4, 0) === 4 && head.equals(Buffer.from('\x7fELF', 'latin1'))
  } finally {
    closeSync(file)
  }
}

/**
 * @param {string} command
 * @param {readonly string[]} args
 * @param {string} doing
 * @param {AbortSignal | undefined} signal
 */
async function must(command, args, doing, signal) {
  const result = await run(command, args, { signal })
  if (result.code === 0) return result
  const said = result.output.trim().split('\n').at(-1) || `exit code ${result.code}`
  throw new SetupFailure(commonSentence(result.output, doing) ?? `Set-up failed while ${doing}: ${command.slice(command.lastIndexOf('/') + 1)} said "${said}".`)
}

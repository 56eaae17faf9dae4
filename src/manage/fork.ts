/**
 * A fork: the database of one box, as it is now, as a box of its own beside it. It has all that is in the database, and nothing of what
 * makes the other box that box: passwords, keys, slots, ports, change log. It is built under another name and renamed when it is whole,
 * so that what has the name of a fork is one; what a kill leaves is removed by the next command.
 */
import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, realpathSync } from 'node:fs'
import { join, relative } from 'node:path'
import type { Logger } from 'pino'
import { lockFile } from '../directory-lock.ts'
import { BeyondError, codeOf, fromSystem } from '../errors.ts'
import { readIfThere, writeFileAtomic } from './atomic-file.ts'
import type { BoxConfig } from './box-config.ts'
import { type BoxFile, readBoxFile } from './box-file.ts'
import { type DatabaseAddress, withDatabase } from './database-client.ts'
import { PUBLICATION } from './database-setup.ts'
import { giveIdentity, type Identity } from './fork-identity.ts'
import { checkForkName, type Fork, findFork, forksFolder, holdForks, listForks, newPlace, removeFork, writeForkRecord } from './fork-place.ts'
import { findForkPorts } from './fork-ports.ts'
import { type Prepared, prepareFork } from './fork-prepare.ts'
import { portSettings, stopFork, supervisorOf, writeForkSettings } from './fork-process.ts'
import { type Layout, lookAtLayout, newVolumeId, readMarker, writeMarker } from './layout.ts'
import { OWN_LAYERS, renderSettings, type Settings } from './postgres-config.ts'
import { postgresProcessesIn } from './process-identity.ts'
import { findPrograms, type Programs } from './programs.ts'
import { ensurePasswords, passwordFile } from './secrets.ts'
import { checkWhole, flush, type Snapshot, takeSnapshot } from './snapshot.ts'
import { tlsOptions } from './steps/secrets.ts'
import { ensureTlsFiles, type TlsPaths } from './tls-files.ts'

export type ForkOptions = {
  readonly name: string
  /** Where it shall be; undefined: in the folder `forks` beside the source. */
  readonly at: string | undefined
  /** Commits wait for the disk, as in its source; a fork's do not by default. */
  readonly durable: boolean
  /** Of the source: its data directory, and where programs and hooks are. */
  readonly config: BoxConfig
  readonly environment: NodeJS.ProcessEnv
  readonly logger: Logger
  readonly signal: AbortSignal
  /** Called for each moment of the work; tests hold it there. */
  readonly onMoment?: (moment: ForkMoment) => Promise<void> | void
}

export type ForkMoment = 'prepared' | 'copied' | 'identified' | 'written' | 'placed'

export type MadeFork = {
  readonly fork: Fork
  /** What did not go as it should and kept nothing from being done, a sentence each. */
  readonly problems: readonly string[]
}

const FORK_LAYER = '98-fork.conf'
const SOURCE_MS = 30_000
const ANSWER_MS = 5_000

export async function makeFork(options: ForkOptions): Promise<MadeFork> {
  const { name, at, config, logger, signal, onMoment = () => undefined } = options
  checkForkName(name)
  const source = openSource(config.dataDir)
  const programs = findPrograms(config, source.account, options.environment['PATH'] ?? '')
  const folder = forksFolder(source.root)
  using _forks = await holdForks(folder, logger, signal)
  using held = await holdSource(source, signal)
  const place = newPlace(folder, name, at)
  try {
    const admin = held.running ? adminOf(source, held.running) : undefined
    const prepared = admin && (await prepare(admin, source, options))
    await onMoment('prepared')
    const environment = childEnvironment(options.environment)
    const { account, accountOwner } = source
    const snapshot = await takeSnapshot({ source, target: place.unfinished, account, accountOwner, programs, running: admin, environment, signal })
    await onMoment('copied')
    for (const name of ['secrets', 'tls']) makePrivate(join(place.unfinished, name), source)
    const recovered = giveIdentity({
      postgres: join(place.unfinished, 'postgres'),
      programs,
      account,
      environment,
      configFile: join(source.config, 'postgresql.conf'),
      database: held.box?.database ?? 'postgres',
      publication: PUBLICATION,
      passwords: ensurePasswords(join(place.unfinished, 'secrets'), undefined),
      signal,
    })
    // Its start would make them, but Postgres recovers meanwhile.
    const certificates = ensureTlsFiles(tlsOptions({ config: { ...config, listen: '127.0.0.1' }, layout: { ...source, tlsFiles: below(source, place.unfinished) } }))
    await Promise.allSettled([recovered, certificates])
    await certificates
    const identity = await recovered
    await onMoment('identified')
    const ports = await findForkPorts(portsOf(listForks(folder)), Math.random())
    const record = {
      version: 1,
      name,
      source: source.root,
      method: snapshot.method,
      madeAt: new Date().toISOString(),
      lsn: snapshot.lsn ?? null,
      systemIdentifier: identity.systemIdentifier,
      ports,
    } as const
    writeFork(place.unfinished, { source, name, settings: settingsOf(options, record.ports, identity, held.box, programs) })
    writeForkRecord(place.unfinished, record)
    await flush(place.unfinished, environment, signal)
    await onMoment('written')
    place.finish()
    await onMoment('placed')
    return { fork: { path: place.path, record }, problems: [...(prepared?.problems ?? []), ...problemsOf(snapshot, identity, source.root)] }
  } catch (error) {
    place.giveUp()
    throw error instanceof BeyondError || signal.aborted ? error : fromSystem(error, `forking ${source.root}`)
  }
}

/** Ended, and gone with all that it kept. */
export async function dropFork(dataDirectory: string, name: string, logger: Logger, signal: AbortSignal): Promise<Fork> {
  const folder = forksFolder(rootOf(dataDirectory))
  findFork(folder, name)
  using _forks = await holdForks(folder, logger, signal)
  const fork = findFork(folder, name)
  await stopFork(fork, logger, signal)
  removeFork(folder, fork)
  return fork
}

export function forksOf(dataDirectory: string): readonly Fork[] {
  return listForks(forksFolder(rootOf(dataDirectory)))
}

export const forkOf = (dataDirectory: string, name: string): Fork => findFork(forksFolder(rootOf(dataDirectory)), name)

export const portsOf = (forks: readonly Fork[]): ReadonlySet<number> => new Set(forks.flatMap(({ record }) => Object.values(record.ports)))

const rootOf = (dataDirectory: string): string => (existsSync(dataDirectory) ? realpathSync(dataDirectory) : dataDirectory)

/** The directory of a primary whose database can be copied. */
function openSource(dataDirectory: string): Layout {
  const absent = (what: string): BeyondError => new BeyondError('DATA_DIRECTORY', `${what}: start a box there with npm start, or name the directory of one with --data.`, { facts: { path: dataDirectory } })
  if (!existsSync(dataDirectory)) throw absent(`There is no box to fork in ${dataDirectory}`)
  const { layout } = lookAtLayout(dataDirectory)
  if (!readMarker(layout)?.initialized || !existsSync(join(layout.postgres, 'PG_VERSION'))) throw absent(`The box in ${layout.root} has no database yet`)
  if (existsSync(join(layout.postgres, 'standby.signal'))) {
    throw new BeyondError('DATA_DIRECTORY', `${layout.root} is a replica, which can't be forked: fork its primary.`, { facts: { path: layout.root } })
  }
  checkWhole(layout.postgres)
  return layout
}

type HeldSource = Disposable & {
  /** What box.json says while Postgres runs. */
  readonly running: BoxFile | undefined
  readonly box: BoxFile | undefined
}

/** Either Postgres answers, or it is stopped and can't start until this is disposed of. */
async function holdSource(source: Layout, signal: AbortSignal): Promise<HeldSource> {
  const box = existsSync(source.boxFile) ? readBoxFile(source.root) : undefined
  for (const deadline = Date.now() + SOURCE_MS; ; ) {
    signal.throwIfAborted()
    if (postgresProcessesIn(source.postgres).length > 0) {
      if (box && (await answers(adminOf(source, box)))) return { running: box, box, [Symbol.dispose]: () => undefined }
    } else if (!supervisorOf(source.root)) {
      mkdirSync(source.run, { recursive: true, mode: 0o700 })
      const lock = tryLock(source)
      if (lock && postgresProcessesIn(source.postgres).length === 0) {
        checkStopped(source, lock)
        return { running: undefined, box, [Symbol.dispose]: () => lock[Symbol.dispose]() }
      }
      lock?.[Symbol.dispose]()
    }
    if (Date.now() > deadline) {
      throw new BeyondError('POSTGRES_UNAVAILABLE', `The box in ${source.root} runs and its Postgres does not answer: try again when it does, or stop the box first.`)
    }
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

function tryLock(source: Layout): Disposable | undefined {
  try {
    return lockFile(source.lock, `The box in ${source.root} is starting.`)
  } catch (error) {
    if (codeOf(error) === 'LOCKED') return undefined
    throw error
  }
}

/** Recovery that needs more than the directory itself is not ours to do. */
function checkStopped(source: Layout, lock: Disposable): void {
  const name = ['backup_label', 'recovery.signal'].find((file) => existsSync(join(source.postgres, file)))
  if (name === undefined) return
  lock[Symbol.dispose]()
  throw new BeyondError('DATA_DIRECTORY', `${source.postgres} has ${name}, so its recovery is not done: start the box once, then fork it.`)
}

const answers = (admin: DatabaseAddress): Promise<boolean> =>
  withDatabase(admin, ANSWER_MS, (client) => client.query('SELECT 1')).then(() => true, () => false)

function adminOf(source: Layout, box: BoxFile): DatabaseAddress {
  const password = (readIfThere(passwordFile(source.secrets, 'beyond_admin')) ?? '').trim()
  return { host: box.postgres.socketDir, port: box.postgres.port, user: 'beyond_admin', password, database: 'postgres' }
}

async function prepare(admin: DatabaseAddress, source: Layout, { config, environment, logger, signal }: ForkOptions): Promise<Prepared> {
  const inRecovery = await withDatabase(admin, ANSWER_MS, (client) => client.query<{ is: boolean }>('SELECT pg_is_in_recovery() AS is'))
  if (inRecovery.rows[0].is) throw new BeyondError('DATA_DIRECTORY', `${source.root} is in recovery, so it can't be forked yet: fork its primary, or try again when it is done.`)
  const hooks = { config: { settings: config.settings, postgresPort: admin.port }, layout: source, environment: childEnvironment(environment), logger, signal }
  return prepareFork(admin, hooks)
}

/** The account of Postgres passes through, as everywhere in a box. */
function makePrivate(path: string, { accountOwner }: Layout): void {
  mkdirSync(path, { mode: 0o700 })
  if (!accountOwner) return
  chownSync(path, 0, accountOwner.gid)
  chmodSync(path, 0o710)
}

/** Where another box's certificates lie. */
function below({ root, tlsFiles }: Layout, other: string): TlsPaths {
  return Object.fromEntries(Object.entries(tlsFiles).map(([name, path]) => [name, join(other, relative(root, path))])) as TlsPaths
}

/** Everything about the fork but its database. Owners of folders are set right by its first start. */
function writeFork(directory: string, { source, name, settings }: { source: Layout; name: string; settings: Readonly<Record<string, string>> }): void {
  const confD = join(directory, 'config', 'conf.d')
  mkdirSync(confD, { recursive: true, mode: 0o700 })
  const { account } = source
  const access = account.separate ? { mode: 0o640, owner: { uid: 0, gid: account.gid } } : { mode: 0o600 }
  const layer = renderSettings('What this fork has from its source.', layerOf(source, name))
  writeFileAtomic(join(confD, FORK_LAYER), layer, access)
  for (const file of readdirSync(source.confD).filter((file) => file.endsWith('.conf') && !OWN_LAYERS.includes(file) && file !== FORK_LAYER)) {
    const content = readIfThere(join(source.confD, file))
    if (content !== undefined) writeFileAtomic(join(confD, file), content, access)
  }
  writeForkSettings(directory, settings)
  writeMarker({ ...source, marker: join(directory, 'beyond-pg.json') }, { version: 1, initialized: true, id: newVolumeId() })
}

/** Libraries that objects of the database need. */
function layerOf(source: Layout, name: string): Settings {
  const layers = ['00-image.conf', FORK_LAYER].map((file) => readIfThere(join(source.confD, file)) ?? '').join('')
  const [, libraries] = [...layers.matchAll(/^shared_preload_libraries = '(.*)'$/gm)].at(-1) ?? []
  return { cluster_name: `beyond-pg fork ${name}`.slice(0, 63), ...(libraries === undefined ? {} : { shared_preload_libraries: libraries }) }
}

function settingsOf({ config, durable }: ForkOptions, ports: Fork['record']['ports'], { tables }: Identity, box: BoxFile | undefined, programs: Programs): Record<string, string> {
  const streams = tables !== undefined && box?.quic !== null
  return {
    ...portSettings(ports),
    BEYOND_VOLUME_EPHEMERAL: String(!durable),
    ...(streams ? {} : { BEYOND_PG_NO_CDC: 'true' }),
    ...(streams && tables !== 'all' ? { BEYOND_PG_TABLES: tables } : {}),
    ...(streams && box ? { BEYOND_PG_DATABASE: box.database } : {}),
    ...(config.postgresBinDir === undefined ? {} : { BEYOND_PG_BINDIR: config.postgresBinDir }),
    BEYOND_PGBOUNCER: programs.pgbouncer,
  }
}

function problemsOf({ method }: Snapshot, { subscriptions }: Identity, source: string): readonly string[] {
  return [
    ...(method === 'copy' ? [`All of ${source} was copied, which takes time and space: on btrfs, or XFS with reflinks, a fork shares both with its source.`] : []),
    ...(subscriptions.length > 0 ? [`Subscriptions of the fork are disabled and have no slot, since theirs is their source's: ${subscriptions.join(', ')}.`] : []),
  ]
}

function childEnvironment(environment: NodeJS.ProcessEnv): Readonly<Record<string, string>> {
  const kept = ['PATH', 'TMPDIR', 'TZ'].flatMap((name) => (environment[name] === undefined ? [] : [[name, environment[name]]]))
  return { ...(Object.fromEntries(kept) as Record<string, string>), LC_ALL: 'C' }
}

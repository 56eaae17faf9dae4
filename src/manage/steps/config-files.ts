/** Every config file of Postgres and PgBouncer: what it should say, computed first; what differs, written beside and renamed. */
import { spawnSync } from 'node:child_process'
import { existsSync, lstatSync, statfsSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { readIfThere, writeFileAtomic } from '../atomic-file.ts'
import { primaryConninfo, replicaPassfile, replicaSlot } from '../base-backup.ts'
import { cdcAccount } from '../box-children.ts'
import { installedExtensions, preloadLibraries } from '../extensions.ts'
import { giveTree, type Layout } from '../layout.ts'
import { readMachine } from '../machine.ts'
import { maxClients, poolerConfig, userList } from '../pgbouncer-config.ts'
import {
  durabilitySettings,
  hbaConfig,
  identConfig,
  imageSettings,
  mainConfig,
  type PeerAccount,
  renderSettings,
  replicationSettings,
  type Settings,
  USER_LAYER,
  userConfig,
} from '../postgres-config.ts'
import { accessLines, listenSettings } from '../sink-primary.ts'
import { planTuning, settingsOf, type Tuning, type TuningInput } from '../tuning.ts'
import { UserLayer } from '../user-layer.ts'
import { type Boot, given, nothing, type Plan, type Step, will } from './step.ts'

type File = { readonly path: string; readonly content: string; readonly access?: { mode: number; owner: { uid: number; gid: number } | undefined } }

export const accessRules: Step = {
  name: 'access rules',
  look: (boot) => {
    const { hba, ident } = accessFiles(boot.layout)
    const peers = peerAccounts(boot.layout)
    return planFiles(boot.layout, [
      { path: hba, content: hbaConfig(peers, boot.config.settings.walSink.length > 0 ? accessLines(boot.config.listen) : []) },
      { path: ident, content: identConfig(peers) },
    ])
  },
}

export const configLayers: Step = {
  name: 'config layers',
  look: (boot) => layersOf(boot, []),
}

/** All layers but those that are left as they are. */
export function layersOf(boot: Boot, without: readonly string[]): Plan {
  return planFiles(boot.layout, layerFiles(boot).filter(({ path }) => !without.includes(basename(path))))
}

/** The files of conf.d, and the main one that names them, unless another is there that the user layer has to judge. */
export function layerFiles(boot: Boot): readonly File[] {
  const { config, layout } = boot
  const { hba, ident } = accessFiles(layout)
  const { ephemeral, primaryConninfo: conninfo, tier, extensions } = config.settings
  const preload = preloadLibraries(extensions, installedExtensions(given(boot.programs, 'the programs')))
  const image: Settings = {
    ...imageSettings({ port: config.postgresPort, socketDirectory: layout.sockets, hbaFile: hba, identFile: ident }),
    ...(config.settings.walSink.length > 0 ? listenSettings(config.listen, layout.tlsFiles) : {}),
    ...(preload.length > 0 ? { shared_preload_libraries: preload.join(',') } : {}),
  }
  const isReplica = tier === 'replica' && conninfo !== undefined && existsSync(layout.marker)
  const { max_connections: _connections, max_worker_processes: _workers, ...limits } = isReplica ? primaryLimits(boot) : {} // the tuning has those
  const replica = isReplica ? { conninfo: primaryConninfo(layout, conninfo), slot: replicaSlot(layout), primaryLimits: limits } : undefined
  const layer = (name: string, title: string, settings: Settings): File => ({ path: join(layout.confD, name), content: renderSettings(title, settings) })
  const user = join(layout.confD, USER_LAYER)
  const main = join(layout.config, 'postgresql.conf')
  const passfile = replica && conninfo ? replicaPassfile(layout, conninfo) : undefined
  return [
    layer('00-image.conf', 'What the box relies on.', image),
    tuningFile(layout, settingsOf(boxTuning(boot))),
    layer('02-durability.conf', ephemeral ? 'The volume may be lost: commits do not wait for it.' : 'Commits wait for the disk.', durabilitySettings({ ephemeral })),
    layer('03-replication.conf', replica ? 'A replica.' : 'A primary.', { ...replicationSettings({ volumeBytes: volumeBytes(layout), replica }), ...boot.sinks?.settings }),
    ...(passfile ? [{ ...passfile, access: { mode: 0o600, owner: layout.accountOwner } }] : []),
    ...(lstatSync(user, { throwIfNoEntry: false }) ? [] : [{ path: user, content: userConfig() }]),
    ...(lstatSync(main, { throwIfNoEntry: false }) ? [] : [{ path: main, content: mainConfig() }]),
  ]
}

/** Ready for the start of Postgres, which asks it each time. */
export const userSettings: Step = {
  name: 'user settings',
  look: (boot) => {
    const { layout, childEnvironment: environment, logger } = boot
    const programs = given(boot.programs, 'the programs')
    boot.userLayer = new UserLayer({ layout, programs, environment, access: configAccess(layout), logger })
    return nothing('they are tried before each start of Postgres')
  },
}

export const poolerFiles: Step = {
  name: 'pooler files',
  look: (boot) => {
    const { config, layout, passwords } = boot
    if (!passwords) return will(`write ${layout.pooler}`, () => undefined) // a dry run before the first start
    const { authFile, iniFile } = poolerPaths(layout)
    const text = poolerConfig({
      listen: config.listen,
      port: config.poolerPort,
      postgresPort: config.postgresPort,
      socketDirectory: layout.sockets,
      authFile,
      certificate: layout.tlsFiles.serverCertificate,
      key: layout.tlsFiles.serverKey,
      maxConnections: boot.retuner?.maxConnections ?? boxTuning(boot).maxConnections,
      openFiles: readMachine().openFiles,
      workers: poolerSize(boot).most,
    })
    return planFiles(layout, [
      { path: authFile, content: userList(passwords.beyond_pooler), access: { mode: 0o600, owner: layout.accountOwner } },
      { path: iniFile, content: text },
    ])
  },
}

/** The change stream may run as another account than last time. */
export const changeLogOwner: Step = {
  name: 'owner of the change log',
  look: ({ layout }) => {
    const owner = cdcOwner(layout)
    const stats = lstatSync(layout.cdc, { throwIfNoEntry: false })
    if (stats && stats.uid === owner.uid && stats.gid === owner.gid) return nothing('it is who runs the change stream')
    return will(`give ${layout.cdc} to uid ${owner.uid}`, () => giveTree(layout.cdc, owner))
  },
}

function cdcOwner(layout: Layout): { uid: number; gid: number } {
  const ourselves = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }
  return (cdcAccount(layout.account) ? layout.accountOwner : undefined) ?? ourselves
}

export function poolerPaths(layout: Layout): { readonly authFile: string; readonly iniFile: string } {
  return { authFile: join(layout.pooler, 'userlist.txt'), iniFile: join(layout.pooler, 'pgbouncer.ini') }
}

/** Workers of PgBouncer that may run, and the clients of each. More pay off only where thousands of clients connect by the second. */
export function poolerSize(boot: Pick<Boot, 'config' | 'layout' | 'programs'>): { readonly most: number; readonly clientsEach: number } {
  const { cpus, openFiles } = readMachine()
  const most = Math.max(1, Math.min(Math.floor(cpus), boot.config.settings.poolerWorkers ?? 4))
  return { most, clientsEach: maxClients({ openFiles, maxConnections: boxTuning(boot).maxConnections }) }
}

/** Readable for the account of Postgres, writable for us alone. */
export function configAccess({ account }: Layout): { mode: number; owner: { uid: number; gid: number } | undefined } {
  return account.separate ? { mode: 0o640, owner: { uid: 0, gid: account.gid } } : { mode: 0o600, owner: undefined }
}

export function tuningFile(layout: Layout, settings: Settings): File {
  const title = 'From the memory and processors of this machine: beyond-pg tune --explain.'
  return { path: join(layout.confD, '01-tuning.conf'), content: renderSettings(title, settings) }
}

/** How Postgres is tuned here. */
export function boxTuning(boot: Pick<Boot, 'config' | 'layout' | 'programs'>): Tuning {
  return planTuning(tuningInput(boot))
}

/** The machine as it is now, the settings and, for a replica, what its primary has. */
export function tuningInput(boot: Pick<Boot, 'config' | 'layout' | 'programs'>): TuningInput {
  const { config, layout } = boot
  const { memoryMb, tier, ephemeral } = config.settings
  const limits = tier === 'replica' ? primaryLimits(boot) : {}
  const primary = { maxConnections: Number(limits['max_connections'] ?? 0), maxWorkerProcesses: Number(limits['max_worker_processes'] ?? 0) }
  const { memoryBytes, memoryIsGiven, cpus } = readMachine({ memoryMb })
  return { memoryBytes, memoryIsGiven, cpus, profile: config.profile, tier, ephemeral, volumeBytes: volumeBytes(layout), primary, lz4: boot.programs?.lz4 ?? true }
}

/** Of the file system that the data directory lies on, or will. */
function volumeBytes({ root }: Layout): number {
  let path = root
  while (!existsSync(path)) path = dirname(path)
  const { blocks, bsize } = statfsSync(path)
  return blocks * bsize
}

const LIMITS = /^(max_connections|max_worker_processes|max_wal_senders|max_prepared_xacts|max_locks_per_xact) setting:\s+(\d+)$/gm
const LIMIT_NAMES: Readonly<Record<string, string>> = { max_prepared_xacts: 'max_prepared_transactions', max_locks_per_xact: 'max_locks_per_transaction' }

/** What the primary had when it wrote its last checkpoint: a replica with less would not replay. */
function primaryLimits({ layout, programs }: Pick<Boot, 'layout' | 'programs'>): Settings {
  if (!programs || !existsSync(join(layout.postgres, 'global', 'pg_control'))) return {}
  const { stdout } = spawnSync(join(dirname(programs.postgres), 'pg_controldata'), ['-D', layout.postgres], { encoding: 'utf8', env: { LC_ALL: 'C' }, timeout: 10_000 })
  return Object.fromEntries([...(stdout ?? '').matchAll(LIMITS)].map(([, name, value]) => [LIMIT_NAMES[name] ?? name, Number(value)]))
}

function accessFiles({ config }: Layout): { readonly hba: string; readonly ident: string } {
  return { hba: join(config, 'pg_hba.conf'), ident: join(config, 'pg_ident.conf') }
}

/** We are the administrator, PgBouncer's account is the pooler. An account without a name can't be told by Postgres: passwords, then. */
function peerAccounts({ account }: Layout): readonly PeerAccount[] {
  if (account.name.includes(' ')) return []
  return [
    { system: account.separate ? 'root' : account.name, role: 'beyond_admin' },
    { system: account.name, role: 'beyond_pooler' },
  ]
}

function planFiles(layout: Layout, files: readonly File[]): Plan {
  const differing = files.filter(({ path, content }) => readIfThere(path) !== content).map(({ path }) => path)
  const write = (): void => {
    for (const { path, content, access } of files) writeFileAtomic(path, content, access ?? configAccess(layout))
  }
  if (differing.length > 0) return will(`write ${differing.join(', ')}`, write)
  return will('see that they belong to whom they should', () => {
    write()
    return 'all say what they should'
  })
}

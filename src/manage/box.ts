/**
 * A box from its start to its end, in the order in which things happen. Each step looks before it acts,
 * so that a start after a crash at any point goes on from what is there.
 */
import { existsSync, readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { lockFile } from '../directory-lock.ts'
import { writeFileAtomic } from './atomic-file.ts'
import { type BoxConfig, localAddress } from './box-config.ts'
import { type BoxParts, cdcAccount, cdcChild, poolerChild, postgresChild } from './box-children.ts'
import { type BoxFile, writeBoxFile } from './box-file.ts'
import { readRecord, removeRecord, writeRecord } from './child-process.ts'
import { setUpDatabase } from './database-setup.ts'
import { giveTree, type Layout, openLayout, removeTemporarySockets } from './layout.ts'
import { Leftovers } from './leftovers.ts'
import { readMachine } from './machine.ts'
import { poolerConfig, userList } from './pgbouncer-config.ts'
import { checkPorts } from './ports.ts'
import { hbaConfig, imageSettings, mainConfig, renderSettings, userConfig } from './postgres-config.ts'
import { ensurePostgresData } from './postgres-data.ts'
import { findPrograms, type Programs } from './programs.ts'
import { ensurePasswords, pgpassFile } from './secrets.ts'
import { type ChildSpec, SupervisedChild } from './supervised-child.ts'
import { ensureTlsFiles } from './tls-files.ts'
import { tune } from './tuning.ts'

export type BoxSurroundings = {
  /** The log of this box; `layout` is known from its first call on. */
  readonly openLog: (layout: Layout) => Logger
  /** Aborts for an orderly stop. */
  readonly stop: AbortSignal
  /** Aborts to cut the stop short. */
  readonly hurry: AbortSignal
  /** Aborts when another supervisor is to take over: the children are left running for it. */
  readonly handOver: AbortSignal
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly onReady: (ready: ReadyBox) => void
}

export type ReadyBox = {
  readonly layout: Layout
  readonly programs: Programs
  readonly box: BoxFile
  readonly pgpass: string
  /** Why changes don't stream, when they should and don't. */
  readonly cdcProblem: string | undefined
}

/**
 * Brings the box up, keeps it up until `stop`, and leaves no process behind, unless it is handed over. Throws BeyondError when it
 * can't be brought up.
 */
export async function runBox(config: BoxConfig, { openLog, stop, hurry, handOver, environment, onReady }: BoxSurroundings): Promise<'stopped' | 'handed-over'> {
  const explanations: string[] = []
  const layout = openLayout(config.dataDir, { isDefault: config.dataDirIsDefault, explain: (text) => explanations.push(text) })
  const holder = readRecord(layout.run, 'supervisor')
  using _lock = lockFile(
    layout.lock,
    `Another box${holder ? ` (process ${holder.pid})` : ''} runs on ${layout.root}: stop it first, or choose another directory with --data.`,
  )
  writeRecord(layout.run, 'supervisor', process.pid)
  const logger = openLog(layout)
  for (const text of explanations) logger.warn(text)

  const programs = findPrograms(config, layout.account, environment['PATH'] ?? '')
  const leftovers = await Leftovers.find(layout, logger, stop)
  await checkPorts(config, leftovers.names)

  const cdcRunsAs = cdcAccount(layout.account)
  const cdcOwner = cdcRunsAs ? layout.accountOwner : undefined
  const passwords = ensurePasswords(layout.secrets, cdcOwner)
  await ensureCertificates(config, layout, logger)
  const childEnvironment = cleanEnvironment(environment)
  await ensurePostgresData({
    layout,
    initdb: programs.initdb,
    environment: childEnvironment,
    adminPassword: passwords.beyond_admin,
    logger,
    signal: stop,
  })
  writePostgresFiles(config, layout)
  const iniFile = writePoolerFiles(config, layout, passwords.beyond_pooler)
  giveTree(layout.cdc, cdcOwner ?? { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 })

  const cdcEnvironment = { ...childEnvironment, ...config.cdc?.environment }
  const parts: BoxParts = { config, layout, programs, passwords, environment: childEnvironment, cdcEnvironment, logger }
  await using children = new AsyncDisposableStack() // stops them in the opposite order
  /** Supervises it from here on; what an earlier supervisor left running is kept. */
  const keep = (spec: ChildSpec): SupervisedChild => {
    const child = new SupervisedChild(spec, { runDirectory: layout.run, logger, survivor: leftovers.take(spec.name) })
    children.defer(() => child.stop(hurry))
    return child
  }

  stop.throwIfAborted()
  const postgres = keep(postgresChild(parts))
  const pooler = keep(poolerChild(parts, iniFile, readFileSync(layout.tlsFiles.ca, 'utf8')))
  const cdc = config.cdc && keep(cdcChild(parts, config.cdc, cdcRunsAs))
  await leftovers.endRest(stop)
  await unlessStopped(stop, postgres.start())
  await unlessStopped(
    stop,
    setUpDatabase({ address: { host: layout.sockets, port: config.postgresPort }, passwords, cdc: config.cdc, logger }),
  )

  // Without the change stream the box is still a database; so its failure is told loudly and tried again, and stops nothing.
  const cdcStarted = cdc?.start().then(() => undefined, (error: Error) => error.message)
  const [, cdcProblem] = await unlessStopped(stop, Promise.all([pooler.start(), cdcStarted]))

  const box = describeBox(config, layout)
  writeBoxFile(layout.boxFile, box)
  onReady({ layout, programs, box, pgpass: pgpassFile(layout.secrets), cdcProblem })
  await untilAborted(AbortSignal.any([stop, handOver]))
  if (!stop.aborted) {
    for (const child of [postgres, pooler, cdc]) child?.release()
    logger.info('handing over')
    return 'handed-over'
  }
  logger.info('stopping')
  await children.disposeAsync()
  removeTemporarySockets(layout)
  removeRecord(layout.run, 'supervisor')
  logger.info('stopped')
  return 'stopped'
}

async function ensureCertificates(config: BoxConfig, layout: Layout, logger: Logger): Promise<void> {
  const host = hostname()
  const names = ['localhost', '127.0.0.1', '::1', localAddress(config.listen), ...(/^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/i.test(host) ? [host] : [])]
  const options = { paths: layout.tlsFiles, serverNames: [...new Set(names)], serverOwner: layout.accountOwner, now: new Date() }
  const made = await ensureTlsFiles(options)
  if (made.length > 0) logger.info({ made, path: layout.tls }, 'made certificates')
}

function writePostgresFiles(config: BoxConfig, layout: Layout): void {
  const hbaFile = join(layout.config, 'pg_hba.conf')
  const identFile = join(layout.config, 'pg_ident.conf')
  const image = imageSettings({ port: config.postgresPort, socketDirectory: layout.sockets, hbaFile, identFile })
  const access = configAccess(layout)
  writeFileAtomic(hbaFile, hbaConfig(), access)
  writeFileAtomic(identFile, '# Written by beyond-pg at every start.\n', access)
  writeFileAtomic(join(layout.confD, '00-image.conf'), renderSettings('What the box relies on.', image), access)
  writeFileAtomic(join(layout.confD, '01-tuning.conf'), renderSettings('From the memory and processors of this machine.', tune(readMachine())), access)
  const user = join(layout.confD, '99-user.conf')
  if (!existsSync(user)) writeFileAtomic(user, userConfig(), access)
  writeFileAtomic(join(layout.config, 'postgresql.conf'), mainConfig(), access)
}

function writePoolerFiles(config: BoxConfig, layout: Layout, password: string): string {
  const authFile = join(layout.pooler, 'userlist.txt')
  const iniFile = join(layout.pooler, 'pgbouncer.ini')
  const machine = readMachine()
  writeFileAtomic(authFile, userList(password), { mode: 0o600, owner: layout.accountOwner })
  const text = poolerConfig({
    listen: config.listen,
    port: config.poolerPort,
    postgresPort: config.postgresPort,
    socketDirectory: layout.sockets,
    authFile,
    certificate: layout.tlsFiles.serverCertificate,
    key: layout.tlsFiles.serverKey,
    maxConnections: Number(tune(machine)['max_connections']),
    openFiles: machine.openFiles,
  })
  writeFileAtomic(iniFile, text, configAccess(layout))
  return iniFile
}

/** Readable for the account of Postgres, writable for us alone. */
function configAccess({ account }: Layout): { mode: number; owner: { uid: number; gid: number } | undefined } {
  return account.separate ? { mode: 0o640, owner: { uid: 0, gid: account.gid } } : { mode: 0o600, owner: undefined }
}

function describeBox(config: BoxConfig, layout: Layout): BoxFile {
  const host = localAddress(config.listen)
  return {
    version: 1,
    postgres: { socketDir: layout.sockets, port: config.postgresPort },
    pooler: { host, port: config.poolerPort },
    quic: config.cdc ? { host, port: config.cdc.quicPort } : null,
    tls: { ca: layout.tlsFiles.ca, cert: layout.tlsFiles.clientCertificate, key: layout.tlsFiles.clientKey },
    database: config.cdc?.database ?? 'postgres',
    secrets: layout.secrets,
  }
}

/** Children get little: PGDATA, PGPORT and the like of whoever starts us would change what they do. */
function cleanEnvironment(environment: Readonly<Record<string, string | undefined>>): Readonly<Record<string, string>> {
  const kept = ['PATH', 'TMPDIR', 'TZ'].flatMap((name) => (environment[name] === undefined ? [] : [[name, environment[name]]]))
  return { ...(Object.fromEntries(kept) as Record<string, string>), LC_ALL: 'C.UTF-8' }
}

/** The result, or the reason of the stop when that comes first; the work goes on and is ended by its owner. */
async function unlessStopped<T>(stop: AbortSignal, work: Promise<T>): Promise<T> {
  work.catch(() => undefined)
  const over = new AbortController()
  const stopped = new Promise<never>((_resolve, reject) => {
    stop.addEventListener('abort', () => reject(stop.reason as Error), { signal: over.signal })
  })
  try {
    stop.throwIfAborted()
    return await Promise.race([work, stopped])
  } finally {
    over.abort()
  }
}

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => (signal.aborted ? resolve() : signal.addEventListener('abort', () => resolve(), { once: true })))
}

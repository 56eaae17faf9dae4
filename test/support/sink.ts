/** A sink in this process, beside a test's Postgres. */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import type { OpenObject, PrimaryConninfo, Sink } from '../../src/sink/sink.ts'
import { WalSink, type WalSinkOptions } from '../../src/sink/wal-sink.ts'
import { lsnFromServer, type Lsn } from '../../src/wal/lsn.ts'
import { bindir, until, type TestPostgres } from './postgres.ts'

export const silent = pino({ level: process.env['SINK_TEST_LOG'] ?? 'silent' }, pino.destination(2))

export function temporaryDirectory(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), 'beyond-pg-sink-'))
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) }
}

export const conninfoOf = (postgres: TestPostgres): PrimaryConninfo => ({ host: postgres.socketDirectory, port: String(postgres.port), user: 'postgres' })

export type RunningSink = AsyncDisposable & { readonly sink: WalSink; stop(): Promise<void> }

/** Opened and running; `stop` ends it in order. */
export async function runSink(directory: string, more: Partial<WalSinkOptions> = {}): Promise<RunningSink> {
  const sink = await WalSink.open({ directory, name: 'sink1', bindir, version: 'test', logger: silent, ownConninfo: {}, minFreeBytes: 0, ...more })
  const end = new AbortController()
  const running = sink.run(end.signal)
  let stopped: Promise<void> | undefined
  const stop = () =>
    (stopped ??= (async () => {
      end.abort()
      await running
      await sink[Symbol.asyncDispose]()
    })())
  return { sink, stop, [Symbol.asyncDispose]: stop }
}

export async function flushedTo(sink: WalSink, lsn: Lsn): Promise<void> {
  await until('the sink has the WAL', () => (sink.status().flushed?.lsn ?? 0n) >= lsn)
}

export async function untilActivity(sink: WalSink, activity: string): Promise<void> {
  await until(`the sink is ${activity}`, () => sink.status().activity === activity).catch((error: unknown) => {
    throw new Error(`${(error as Error).message}; it is ${sink.status().activity}: ${sink.status().problem?.message ?? ''}`)
  })
}

export const flushLsn = async (postgres: TestPostgres): Promise<Lsn> => lsnFromServer((await postgres.query('SELECT pg_current_wal_flush_lsn()::text'))[0][0])

export async function untilSync(postgres: TestPostgres, count = 1): Promise<void> {
  await until('Postgres has its synchronous standby', async () => {
    const rows = await postgres.query("SELECT count(*)::text FROM pg_stat_replication WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum')")
    return Number(rows[0][0]) >= count
  })
}

export async function readObject(object: OpenObject): Promise<Buffer> {
  const pieces: Buffer[] = []
  for await (const piece of object.read(0, object.bytes)) pieces.push(piece)
  return Buffer.concat(pieces)
}

const own = (directory: string): void => {
  if (process.getuid?.() === 0) spawnSync('chown', ['-R', '65534:65534', directory])
}

/** A copy of the volume as it is now, taken while Postgres is down. */
export async function saveBase(postgres: TestPostgres): Promise<Disposable & { readonly path: string }> {
  const folder = temporaryDirectory()
  await postgres.stop()
  cpSync(postgres.dataDirectory, folder.path, { recursive: true })
  await postgres.start()
  return folder
}

/** Every segment and history of the sink as files. */
export async function exportAll(sink: Sink, directory: string): Promise<void> {
  mkdirSync(directory, { recursive: true })
  for (const { name } of await sink.segments()) {
    await using object = await sink.openSegment(name)
    writeFileSync(join(directory, name), await readObject(object))
  }
  for (const { name } of await sink.histories()) {
    await using object = await sink.openHistory(name)
    writeFileSync(join(directory, name), await readObject(object))
  }
}

/** Boots the old copy of the volume with what the sink holds, as a recovery does: on a new timeline. */
export async function recoverFrom(postgres: TestPostgres, base: string, sink: Sink): Promise<void> {
  rmSync(postgres.dataDirectory, { recursive: true, force: true })
  cpSync(base, postgres.dataDirectory, { recursive: true })
  const archive = join(postgres.directory, `archive-${Date.now()}`)
  await exportAll(sink, archive)
  writeFileSync(join(postgres.dataDirectory, 'recovery.signal'), '')
  writeFileSync(join(postgres.dataDirectory, 'postgresql.auto.conf'), `restore_command = 'cp ${archive}/%f %p'\nrecovery_target_timeline = 'latest'\n`)
  for (const path of [postgres.dataDirectory, archive]) own(path)
  await postgres.start()
  await until('Postgres has left recovery', async () => (await postgres.query('SELECT pg_is_in_recovery()'))[0][0] === 'f')
}

/** The process that receives for the sink in this folder; there has to be one. */
export function receiverOf(folder: string): number {
  const found = readdirSync('/proc').filter((name) => {
    try {
      return /^\d+$/.test(name) && readFileSync(`/proc/${name}/cmdline`, 'latin1').includes(`-D\0${folder}/wal\0`)
    } catch {
      return false
    }
  })
  if (found.length !== 1) throw new Error(`${found.length} receivers instead of one`)
  return Number(found[0])
}

/** `count` commits of their own, one after another: 0, 1, … */
export async function commits(postgres: TestPostgres, count: number, sql: (i: number) => string): Promise<void> {
  const client = await postgres.client()
  for (let i = 0; i < count; i++) await client.query(sql(i))
  await client.end()
}

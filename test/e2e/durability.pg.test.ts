/** Nothing is confirmed to the slot, and nothing delivered, before the change log has it on disk. */
import assert from 'node:assert/strict'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { runCdcService } from '../../src/cdc-service.ts'
import { subscribe } from '../../src/transport/client.ts'
import { opensslQuic } from '../../src/transport/openssl-quic.ts'
import type { QuicAddress } from '../../src/transport/quic.ts'
import { startCdc } from '../support/cdc.ts'
import { Collector } from '../support/collector.ts'
import { startPostgres, until } from '../support/postgres.ts'

const MB = 1024 * 1024

it('waits for fsync before it confirms or delivers', async () => {
  await using postgres = await startPostgres()
  await postgres.query('CREATE TABLE t (id int PRIMARY KEY)')
  // For role, publication and certificates; the service itself runs in this process, where fsync can be held up.
  await using files = await startCdc(postgres)
  const connect = files.connect
  await files.stop()

  const file = await open('/proc/self/exe')
  type Durable = { datasync(): Promise<void>; writev(...args: unknown[]): Promise<unknown> }
  const prototype = Object.getPrototypeOf(file) as Durable
  await file.close()
  const { datasync, writev } = prototype
  let gate = Promise.withResolvers<void>()
  gate.resolve()
  prototype.datasync = async function (this: unknown) {
    await gate.promise
    return datasync.call(this as never)
  }
  // The log's writes return when they are durable.
  prototype.writev = async function (this: unknown, ...args) {
    await gate.promise
    return writev.apply(this as never, args)
  }

  const stop = new AbortController()
  const listening = Promise.withResolvers<QuicAddress>()
  const service = runCdcService(
    {
      postgres: { socketDirectory: postgres.socketDirectory, port: postgres.port, user: 'beyond_cdc', password: 'test', database: 'postgres' },
      slot: 'beyond_cdc',
      publication: 'beyond',
      tables: [],
      directory: files.dataDirectory,
      newHistory: false,
      listen: { host: '127.0.0.1', port: 0 },
      tlsDirectory: join(postgres.directory, 'tls'),
      limits: { maxConnections: 10, maxConnectionsPerAddress: 10, maxStreamsPerConnection: 10, handshakeTimeoutMs: 10_000, idleTimeoutMs: 30_000 },
      maxSubscriptions: 10,
      heartbeatMs: 100,
      windowBytes: MB,
      tailBytes: MB,
      segmentBytes: MB,
      idleMarkMs: 10,
      retention: { maxBytes: 100 * MB, maxAgeMs: 1e9, maxConsumerBytes: 100 * MB },
      version: 'test',
    },
    opensslQuic(),
    pino({ level: 'silent' }),
    stop.signal,
    listening.resolve,
  )
  try {
    const { port } = await Promise.race([listening.promise, service.then(() => Promise.reject(new Error('ended')))])
    await using reader = new Collector(subscribe({ ...connect, server: `127.0.0.1:${port}`, from: 'beginning' }))
    const confirmed = async () => (await postgres.query("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 'beyond_cdc'"))[0][0]
    const received = async (lsn: string) => (await postgres.query(`SELECT count(*) FROM pg_stat_replication WHERE sent_lsn >= '${lsn}'`))[0][0] === '1'
    const isConfirmed = async (lsn: string) => (await postgres.query(`SELECT '${await confirmed()}'::pg_lsn >= '${lsn}'`))[0][0] === 't'
    const insert = async (id: number) => {
      await postgres.query(`INSERT INTO t VALUES (${id})`)
      return (await postgres.query('SELECT pg_current_wal_lsn()::text'))[0][0]
    }
    const first = await insert(1)
    await reader.until('the first row has come', () => reader.rows.length === 1)
    await until('it is confirmed', () => isConfirmed(first))

    gate = Promise.withResolvers<void>()
    const second = await insert(2)
    await until('Postgres has sent it', () => received(second))
    // Several times what an idle log needs to be confirmed.
    await sleep(500)
    assert.equal(await isConfirmed(second), false, 'confirmed before fsync')
    assert.equal(reader.rows.length, 1, 'delivered before fsync')
    gate.resolve()
    await reader.until('the second row has come', () => reader.rows.length === 2)
    await until('it is confirmed', () => isConfirmed(second))
  } finally {
    gate.resolve()
    stop.abort()
    await service
    Object.assign(prototype, { datasync, writev })
  }
})

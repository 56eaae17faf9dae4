import assert from 'node:assert/strict'
import { once } from 'node:events'
import { chmodSync, chownSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { Client } from 'pg'
import pino from 'pino'
import { currentAccount } from '../../src/manage/account.ts'
import { Leftovers } from '../../src/manage/leftovers.ts'
import { workerConfig } from '../../src/manage/pgbouncer-config.ts'
import { PoolerWorkers, workerName } from '../../src/manage/pooler-workers.ts'
import { Pgbench, preparePgbench } from '../support/pgbench.ts'
import { startPostgres } from '../support/postgres.ts'
import { freePorts, until } from './box-process.ts'

const never = new AbortController().signal
const logger = pino({ level: 'silent' })

test('workers share a port, cancel for each other, come and go', async (t) => {
  await using postgres = await startPostgres({ max_connections: '80' })
  const { pooler: port } = await freePorts()
  const run = join(postgres.directory, 'run')
  const sockets = join(run, 'sockets')
  const account = currentAccount(65_534)
  const socketOwner = account.separate ? { uid: account.uid, gid: account.gid } : undefined
  for (const path of [run, sockets]) mkdirSync(path)
  if (socketOwner) chownSync(sockets, socketOwner.uid, socketOwner.gid)
  chmodSync(postgres.directory, 0o755)
  const socketDirectoryOf = (number: number): string => (number === 1 ? sockets : join(sockets, String(number)))
  const ini = (number: number): string => join(run, `${number}.ini`)
  writeFileSync(join(run, 'users'), '"postgres" ""\n', { mode: 0o644 })
  const shared = `[databases]
* = host=${postgres.socketDirectory} port=${postgres.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
so_reuseport = 1
auth_type = trust
auth_file = ${run}/users
admin_users = postgres
pool_mode = transaction
max_client_conn = 200
default_pool_size = 20
`
  const console = async (number: number, command: string): Promise<Record<string, unknown>[]> => {
    const client = new Client({ host: socketDirectoryOf(number), port, user: 'postgres', database: 'pgbouncer' })
    await client.connect()
    try {
      return (await client.query(command)).rows as Record<string, unknown>[]
    } finally {
      await client.end()
    }
  }
  const options = {
    specOf: (number: number) => ({
      name: workerName(number),
      program: process.env['BEYOND_PGBOUNCER'] ?? 'pgbouncer',
      args: [ini(number)],
      environment: {},
      account,
      interpret: (line: string) => ({ level: 'info' as const, text: line }),
      reloadSignal: 'SIGHUP' as const,
      ready: async (_process: unknown, signal: AbortSignal) => {
        while (!signal.aborted && !(await console(number, 'SHOW VERSION').then(() => true, () => false))) await new Promise((resolve) => setTimeout(resolve, 20))
      },
      stopSteps: [{ signal: 'SIGINT' as const, withinMs: 5_000 }],
      hurrySignal: 'SIGKILL' as const,
    }),
    socketDirectoryOf,
    socketOwner,
    writeConfig: (number: number) => writeFileSync(ini(number), workerConfig({ number, socketDirectories: [1, 2, 3].map(socketDirectoryOf), port, shared })),
    most: 3,
    clientsEach: 200,
    runDirectory: run,
    logger,
    sampleMs: 3_600_000,
  }
  const layout = { run, sockets, postgres: postgres.dataDirectory } as never
  let workers = new PoolerWorkers({ ...options, leftovers: await Leftovers.find(layout, logger, never) })
  t.after(() => workers.stop(AbortSignal.abort()))
  await workers.start()
  const target = { host: '127.0.0.1', port, user: 'postgres', password: '', database: 'postgres' }
  const pids = (): (number | undefined)[] => workers.children.map(({ state }) => (state.status === 'running' ? state.process.pid : undefined))

  await t.test('one runs, and others are added up to the most', async () => {
    assert.equal(workers.children.length, 1)
    await workers.add()
    await workers.add()
    await workers.add()
    assert.deepEqual(workers.sockets, [1, 2, 3].map(socketDirectoryOf))
  })

  await t.test('a cancel request reaches its query, whichever worker it lands on', async () => {
    const clients = await Promise.all(Array.from({ length: 12 }, async () => {
      const client = new Client(target)
      await client.connect()
      return client
    }))
    const spread = await Promise.all([1, 2, 3].map(async (number) => (await console(number, 'SHOW CLIENTS')).filter((row) => row['database'] === 'postgres').length))
    t.diagnostic(`clients by worker: ${spread.join(', ')}`)
    assert.equal(spread.reduce((sum, count) => sum + count), 12)
    const queries = clients.map((client) => client.query('SELECT pg_sleep(60)').then(() => 'done', (error: { code?: string }) => error.code))
    await until(async () => (await postgres.query("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"))[0][0] === '12')
    await Promise.all(clients.map((client) => cancel(port, client)))
    assert.deepEqual(await Promise.all(queries), clients.map(() => '57014'))
    await Promise.all(clients.map((client) => client.end()))
  })

  await t.test('one that goes keeps its clients and gets no new ones; the next supervisor lets it go on leaving', async () => {
    preparePgbench(target, 1)
    await using steady = new Pgbench(target, 9, '--rate=100')
    await using connecting = new Pgbench(target, 2, '-C', '-S', '--rate=50')
    await until(() => connecting.result().rates.length > 0)
    const leaving = pids()[2]
    const shed = workers.shed()
    await until(() => connecting.result().rates.length > 2)
    assert.equal(workers.children.length, 2)
    assert.ok(existsSync(`/proc/${leaving}`), 'its clients are still there')
    const kept = pids()
    workers.release()
    workers = new PoolerWorkers({ ...options, leftovers: await Leftovers.find(layout, logger, never) })
    await workers.start()
    assert.deepEqual(pids(), kept)
    assert.ok(existsSync(`/proc/${leaving}`))
    assert.deepEqual((await steady.stop()).failures, [])
    assert.deepEqual((await connecting.stop()).failures, [])
    await shed
    await until(() => !existsSync(`/proc/${leaving}`))
  })

  await t.test('its place is taken again', async () => {
    await workers.add()
    assert.equal(workers.children.length, 3)
    assert.equal(workers.reload(), true)
    await workers.restart()
    assert.equal(pids().filter((pid) => pid !== undefined).length, 3)
  })

  await t.test('one that is to go waits for its clients only so long', async () => {
    await workers.stop(never)
    workers = new PoolerWorkers({ ...options, leaveMs: 200, leftovers: await Leftovers.find(layout, logger, never) })
    await workers.start()
    await workers.add()
    const clients = await Promise.all(Array.from({ length: 8 }, async () => {
      const client = new Client(target)
      client.on('error', () => undefined)
      await client.connect()
      return client
    }))
    await workers.shed()
    assert.equal(workers.children.length, 1)
    const alive = await Promise.all(clients.map((client) => client.query('SELECT 1').then(() => true, () => false)))
    assert.ok(alive.includes(true), 'those of the other worker are still there')
    await Promise.all(clients.map((client) => client.end().catch(() => undefined)))
  })
})

/** As libpq does it: a connection of its own, 16 bytes, and no answer. https://www.postgresql.org/docs/18/protocol-message-formats.html */
async function cancel(port: number, client: Client): Promise<void> {
  const { processID, secretKey } = client as unknown as { processID: number; secretKey: number }
  const request = Buffer.alloc(16)
  request.writeInt32BE(16, 0)
  request.writeInt32BE(80_877_102, 4)
  request.writeInt32BE(processID, 8)
  request.writeInt32BE(secretKey, 12)
  const socket = connect(port, '127.0.0.1')
  socket.end(request)
  await once(socket, 'close')
}

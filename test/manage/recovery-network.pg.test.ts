/** A box that is reached over the network: its sinks come over TLS, and nobody else gets to Postgres itself. */
import assert from 'node:assert/strict'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Client } from 'pg'
import { BoxProcess, freePorts, query, startArguments, superuserPassword, temporaryFolder } from './box-process.ts'
import { startSinks } from './sink-processes.ts'

const address = Object.values(networkInterfaces()).flatMap((each) => each ?? []).find(({ internal, family }) => !internal && family === 'IPv4')?.address

test('replication over TLS from outside, and nothing else', { skip: address === undefined && 'this machine has no address but loopback' }, async (t) => {
  const folder = temporaryFolder(t)
  const ports = await freePorts()
  const sinks = await startSinks(t, folder, 1)
  const box = new BoxProcess(startArguments(join(folder, 'box'), ports, '--no-cdc', `--listen=${address}`), { env: sinks.environment })
  const file = await box.ready()
  const ssl = { rejectUnauthorized: false }
  const rows = await query(file, 'SELECT application_name AS name, ssl, version FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)', { ssl })
  assert.deepEqual(rows, [{ name: 'sink1', ssl: true, version: 'TLSv1.3' }])
  const login = { host: address, port: ports.postgres, user: 'postgres', password: superuserPassword(file), database: 'postgres', connectionTimeoutMillis: 5_000 }
  for (const more of [{}, { ssl }]) {
    const client = new Client({ ...login, ...more })
    client.on('error', () => undefined)
    await assert.rejects(client.connect(), /no pg_hba.conf entry/)
  }
  assert.equal((await box.stop()).code, 0)
})

import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { Client } from 'pg'
import { makeCertificate } from '../../src/manage/certificate.ts'
import { call, socketPath } from '../../src/manage/rpc-client.ts'
import { BoxProcess, freePorts, processesIn, startArguments, superuserPassword, temporaryFolder, until } from './box-process.ts'

const DAY = 86_400_000

test('certificates that come near their end are renewed while the box runs', async (t) => {
  const folder = temporaryFolder(t)
  const data = join(folder, 'box')
  const box = new BoxProcess(startArguments(data, await freePorts()))
  const file = await box.ready()
  const tls = (name: string): string => join(data, 'tls', name)
  const servedBy = async (): Promise<string> => {
    const client = new Client({ ...file.pooler, user: 'postgres', password: superuserPassword(file), database: 'postgres', ssl: { ca: readFileSync(file.tls.ca, 'utf8') } })
    await client.connect()
    const { stream } = (client as unknown as { connection: { stream: { getPeerX509Certificate: () => X509Certificate } } }).connection
    const { serialNumber } = stream.getPeerX509Certificate()
    await client.end()
    return serialNumber
  }
  const serialOnDisk = (): string => new X509Certificate(readFileSync(tls('server.crt'))).serialNumber
  const pid = (name: string): number => (JSON.parse(readFileSync(join(data, 'run', `${name}.json`), 'utf8')) as { pid: number }).pid
  assert.equal(await servedBy(), serialOnDisk())

  // One that was made a year ago.
  const authority = new X509Certificate(readFileSync(tls('ca.crt')))
  const issuer = { key: readFileSync(tls('ca.key'), 'utf8'), commonName: /^CN=(.*)$/m.exec(authority.subject)?.[1] ?? '' }
  const validity = { notBefore: new Date(Date.now() - 380 * DAY), notAfter: new Date(Date.now() + 20 * DAY) }
  const old = await makeCertificate({ kind: 'server', commonName: 'localhost', names: ['localhost', '127.0.0.1'], ...validity }, issuer)
  writeFileSync(tls('server.key'), old.key)
  writeFileSync(tls('server.crt'), old.certificate)

  const kept = new Client({ ...file.pooler, user: 'postgres', password: superuserPassword(file), database: 'postgres' })
  await kept.connect()
  const before = { postgres: pid('postgres'), pgbouncer: pid('pgbouncer'), cdc: pid('cdc') }
  await call(socketPath(data), 'reload', { deadlineMs: 30_000 })
  const renewed = new X509Certificate(readFileSync(tls('server.crt')))
  assert.ok(Date.parse(renewed.validTo) > Date.now() + 300 * DAY)
  await until(async () => (await servedBy()) === renewed.serialNumber)
  assert.equal((await kept.query('SELECT 1 AS one')).rows[0].one, 1, 'connections go on')
  await kept.end()
  assert.deepEqual([pid('postgres'), pid('pgbouncer')], [before.postgres, before.pgbouncer])
  assert.notEqual(pid('cdc'), before.cdc, 'the change stream reads its certificate at its start')

  assert.deepEqual(await box.stop(), { code: 0, signal: null })
  assert.deepEqual(processesIn(folder), [])
})

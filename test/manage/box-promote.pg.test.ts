/** A replica as its operator sees it, and how it becomes a primary by hand. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { call, socketPath } from '../../src/manage/rpc-client.ts'
import { scramVerifier } from '../../src/manage/scram.ts'
import type { BoxStatus, PostgresFacts } from '../../src/manage/status-facts.ts'
import { runTestBox, testConfig } from './box-in-process.ts'
import { freePorts, processesIn, query, temporaryFolder, until } from './box-process.ts'

test('a replica is told apart, its lag told, and promoted once its primary is gone', async (t) => {
  const folder = temporaryFolder(t)
  const [first, second] = [join(folder, 'first'), join(folder, 'second')]
  const [ports, morePorts] = [await freePorts(), await freePorts()]
  const roles = `standby:replication=${scramVerifier('secret')},ann=${scramVerifier('a')}`
  const primary = await runTestBox(t, testConfig(first, ports, { BEYOND_PG_ROLES: roles, BEYOND_PG_DATABASES: 'shop=ann' }))
  const conninfo = `host=127.0.0.1 port=${ports.pooler} user=standby password=secret connect_timeout=5`
  const taken = { BEYOND_PG_METRICS_PORT: String(ports.pooler) } // costs the metrics, not the box
  const replica = await runTestBox(t, testConfig(second, morePorts, { BEYOND_PG_TIER: 'replica', BEYOND_PG_PRIMARY_CONNINFO: conninfo, ...taken }))
  const ann = { user: 'ann', password: 'a', database: 'shop' }
  const status = async (data: string): Promise<BoxStatus> => (await call(socketPath(data), 'status')) as BoxStatus
  const facts = async (data: string): Promise<PostgresFacts> => {
    const { postgres } = await status(data)
    assert.ok('version' in postgres, JSON.stringify(postgres))
    return postgres
  }

  await until(async () => (await facts(second)).replica?.streaming === true)
  const { findings } = (await status(second)).health
  assert.deepEqual(findings.map(({ code }) => code), ['boot'])
  assert.match(findings[0].text, /^Port \d+ of 127.0.0.1, meant for metrics, can't be had/)
  await query(primary.box, 'CREATE TABLE kept (id int PRIMARY KEY)', ann)
  await until(async () => {
    const { replica, walLsn } = await facts(second)
    return replica?.replayedLsn === (await facts(first)).walLsn && replica?.replayedLsn === walLsn && replica?.replayBytes === 0
  })
  const [standby] = (await facts(first)).standbys
  assert.deepEqual([standby.state, standby.sync], ['streaming', 'async'])

  await assert.rejects(call(socketPath(first), 'promote'), { code: 'BAD_REQUEST', message: /is a primary already/ })
  await primary.stop()
  await until(async () => (await status(second)).health.findings.some(({ code }) => code === 'replica-cut-off'))

  const before = await facts(second)
  const { timeline } = (await call(socketPath(second), 'promote')) as { timeline: number }
  assert.equal(timeline, before.timeline + 1)
  await query(replica.box, 'INSERT INTO kept VALUES (1)', ann)
  const after = await status(second)
  assert.deepEqual(after.health.findings.map(({ code }) => code), ['boot', 'promoted'])
  assert.equal((after.postgres as PostgresFacts).inRecovery, false)
  await replica.stop()
  assert.deepEqual(processesIn(folder), [])
})

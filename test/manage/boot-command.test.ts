/** `beyond-pg boot`, from the metadata service to its plan. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { startMmds } from '../support/mmds.ts'
import { BoxProcess, freePorts, temporaryFolder } from './box-process.ts'

test('a dry run takes its settings from the metadata service and changes nothing', async (t) => {
  const data = join(temporaryFolder(t), 'box')
  const ports = await freePorts()
  const tree = { latest: { 'meta-data': { BEYOND_PG_DATA: data, BEYOND_PG_PORT: ports.pooler, BEYOND_PG_POSTGRES_PORT: String(ports.postgres), BEYOND_PG_QUIC_PORT: ports.quic } } }
  await using service = await startMmds({ version: 2, tree, tokenFaults: [500], readFaults: ['half'] })
  const plan = async (): Promise<{ code: number | null; stdout: string; stderr: string }> => {
    const boot = new BoxProcess(['boot', '--dry-run', '--settings', service.address])
    const { code } = await boot.ended
    return { code, stdout: boot.stdout, stderr: boot.stderr }
  }
  const { code, stdout, stderr } = await plan()
  assert.equal(code, 0, stderr)
  assert.match(stdout, /^data directory of Postgres +WILL +make .*box\/postgres with initdb$/m)
  assert.ok(!existsSync(data))

  service.options.tree = { ...tree, BEYOND_PG_TIER: 'replica' }
  const refused = await plan()
  assert.equal(refused.code, 2)
  assert.match(refused.stderr, /^beyond-pg: BEYOND_PG_TIER=replica needs BEYOND_PG_PRIMARY_CONNINFO/)

  service.options.tree = { ...tree, BEYOND_PG_LISTEN: '203.0.113.1' }
  const stopped = await plan()
  assert.equal(stopped.code, 0)
  assert.match(stopped.stdout, /^ports +REFUSES +203\.0\.113\.1 is not an address of this machine/m)
  assert.doesNotMatch(stopped.stdout, /initdb/, 'a plan ends where the boot would')
})

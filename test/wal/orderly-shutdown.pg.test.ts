import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startCdc } from '../support/cdc.ts'
import { startPostgres } from '../support/postgres.ts'

test('Postgres shuts down at once while its changes are read, also when there is nothing to log', async (t) => {
  await using postgres = await startPostgres()
  await postgres.query('CREATE TABLE t (n int)')
  await using _cdc = await startCdc(postgres, ['--idle-mark', '60000'])
  for (const sql of ['INSERT INTO t VALUES (1)', 'CHECKPOINT']) {
    await postgres.query(sql)
    const began = performance.now()
    await postgres.stop('SIGINT')
    const milliseconds = Math.round(performance.now() - began)
    t.diagnostic(`after ${sql}: ${milliseconds} ms`)
    assert.ok(milliseconds < 5_000, `${milliseconds} ms`)
    await postgres.start()
    await until(postgres)
  }
})

/** The service reads again. */
async function until(postgres: Awaited<ReturnType<typeof startPostgres>>): Promise<void> {
  const deadline = performance.now() + 20_000
  while ((await postgres.query('SELECT FROM pg_replication_slots WHERE active')).length === 0) {
    if (performance.now() > deadline) throw new Error('the service does not read again')
  }
}

/**
 * A subscriber that stops reading under full load costs the service little memory and slows nobody else.
 * TEST_SLOW_SECONDS=60 makes it a minute.
 */
import assert from 'node:assert/strict'
import { it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect, subscribe } from '../../src/transport/client.ts'
import { startCdc } from '../support/cdc.ts'
import { residentBytes } from '../support/memory.ts'
import { startPostgres, until } from '../support/postgres.ts'

const SECONDS = Number(process.env['TEST_SLOW_SECONDS'] ?? 2)
const MAX_COST_BYTES = 32 * 1024 * 1024
const SAMPLES = 5

it('costs less than 32 MB, and slows nobody else', { timeout: 60_000 + SECONDS * 20_000 }, async (t) => {
  await using postgres = await startPostgres({ synchronous_commit: 'off', max_wal_size: '1GB' })
  await postgres.query('CREATE TABLE t (id bigserial PRIMARY KEY, body text)')
  await using cdc = await startCdc(postgres, ['--heartbeat', '200', '--log-level', 'warn'])
  await using client = connect(cdc.connect)
  const fast = client.subscribe({ from: 'beginning' })
  let received = 0
  const reading = (async () => {
    for await (const batch of fast.batches()) for (const event of batch) if (event.kind === 'insert') received++
  })()

  let written = 0
  const rows = 200
  const load = async (seconds: number): Promise<number> => {
    const writer = await postgres.client()
    const before = received
    for (const end = performance.now() + seconds * 1000; performance.now() < end; written += rows)
      await writer.query(`INSERT INTO t (body) SELECT repeat('x', 200) FROM generate_series(1, ${rows})`)
    await writer.end()
    await until('the fast subscriber has everything', () => received === written, 60_000 + SECONDS * 3_000)
    return (received - before) / seconds
  }
  /** The lowest of some samples: what garbage collection gives back is not a cost. */
  const settled = async (): Promise<number> => {
    let least = Infinity
    for (let i = 0; i < SAMPLES; i++) {
      await sleep(200)
      least = Math.min(least, residentBytes(cdc.pid))
    }
    return least
  }

  // Heaps, caches and buffers have their size after this.
  await load(SECONDS)
  const rateAlone = await load(SECONDS)
  const alone = await settled()

  // A connection of its own, as another program has.
  const slow = subscribe({ ...cdc.connect, from: 'beginning', client: 'slow', idleTimeoutMs: 60_000 })
  const iterator = slow.batches()
  await iterator.next()
  const rateBeside = await load(SECONDS)
  const beside = await settled()
  const cost = beside - alone
  t.diagnostic(`alone ${Math.round(rateAlone)} rows/s and ${(alone / 1048576).toFixed(1)} MB, beside ${Math.round(rateBeside)} rows/s and ${(cost / 1048576).toFixed(1)} MB more`)
  const { subscribers } = await client.status()
  const stuck = subscribers.find((subscriber) => subscriber.client === 'slow')
  assert.ok(stuck && stuck.lagBytes > 1_000_000n, 'the slow subscriber is behind')
  assert.ok(cost < MAX_COST_BYTES, `cost ${cost} bytes`)
  assert.ok(rateBeside > rateAlone / 3, `${rateBeside} rows/s instead of ${rateAlone}`)

  // And it has lost nothing: everything comes when it reads on.
  let late = 0
  for await (const batch of iterator) {
    for (const event of batch) if (event.kind === 'insert') late = Number(event.after['id'])
    if (late === written) break
  }
  await fast.close()
  await reading
})

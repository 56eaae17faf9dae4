import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { until } from '../support/postgres.ts'
import { type Retuned, startRetuned } from '../support/retuned.ts'

const MB = 2 ** 20
const machine = (megabytes: number, cpus = 2) => ({ memoryBytes: megabytes * MB, cpus })

describe('a running Postgres is tuned anew', () => {
  let box: Retuned
  before(async () => {
    box = await startRetuned()
  })
  after(() => box[Symbol.asyncDispose]())

  test('nothing has changed: nothing is done', async () => {
    await using retuner = box.retuner()
    assert.equal((await retuner.retune()).outcome, 'unchanged')
    assert.deepEqual(box.counts, { restarts: 0, resizes: 0 })
  })

  test('what a reload applies is applied at once', async () => {
    await using retuner = box.retuner()
    box.machine = machine(512, 4)
    const { outcome, changed, before, after } = await retuner.retune()
    assert.equal(outcome, 'reloaded')
    assert.deepEqual([before.cpus, after.cpus], [2, 4])
    assert.ok(changed.some(({ name, to }) => name === 'max_parallel_workers' && to === '4'))
    assert.equal(await box.show('max_parallel_workers'), '4')
    assert.equal(box.counts.restarts, 0)
  })

  test('more memory restarts it; a client of the pooler stays connected', async () => {
    await using retuner = box.retuner()
    const client = await box.client()
    await client.query('SELECT 1')
    box.machine = machine(1024, 4)
    const { outcome, stallMs = 0 } = await retuner.retune()
    assert.equal(outcome, 'restarted')
    assert.ok(stallMs > 0 && stallMs < 10_000)
    assert.deepEqual((await client.query('SHOW shared_buffers')).rows, [{ shared_buffers: '256MB' }])
    assert.deepEqual(box.counts, { restarts: 1, resizes: 1 })
    await client.end()
  })

  test('a long transaction postpones it, and what a reload applies is applied all the same', async () => {
    await using retuner = box.retuner({ pauseMs: 300 })
    const client = await box.client()
    await client.query('BEGIN; SELECT 1')
    box.machine = machine(2048, 4)
    const first = await retuner.retune() // the transaction is young: it is waited for, in vain
    assert.deepEqual([first.outcome, first.reason], ['postponed', 'transactions did not end within 300 ms'])
    const isOld = "SELECT clock_timestamp() - xact_start > '0.4s' AS old FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    await until('it is an old one', async () => (await client.query<{ old: boolean }>(isOld)).rows[0].old)
    const second = await retuner.retune()
    assert.equal(second.outcome, 'postponed')
    assert.match(second.reason ?? '', /a transaction has been running/)
    assert.equal(second.stallMs, undefined, 'nobody was held up for it')
    assert.equal(await box.show('maintenance_work_mem'), '128MB')
    assert.equal(await box.show('shared_buffers'), '256MB')
    await client.query('COMMIT')
    await client.end()
    assert.equal((await retuner.retune()).outcome, 'restarted')
    assert.equal(await box.show('shared_buffers'), '512MB')
  })

  test('a pooler that somebody has paused stays paused', async () => {
    await using retuner = box.retuner()
    const { restarts } = box.counts
    assert.equal(await box.console.pause(5_000, new AbortController().signal), true)
    box.machine = machine(4096, 4)
    const { outcome, reason } = await retuner.retune()
    assert.deepEqual([outcome, reason], ['postponed', 'somebody has paused PgBouncer'])
    assert.equal(await box.console.isPaused(), true)
    await box.console.resume()
    box.machine = machine(2048, 4)
    assert.equal((await retuner.retune()).outcome, 'reloaded')
    assert.equal(box.counts.restarts, restarts)
  })

  test('what Postgres would not take is refused before anybody is held up', async () => {
    await using retuner = box.retuner()
    const { restarts } = box.counts
    box.machine = { memoryBytes: 2 ** 60, cpus: 4 }
    const { outcome, reason } = await retuner.retune()
    assert.equal(outcome, 'refused')
    assert.match(reason ?? '', /shared_buffers/)
    assert.equal(box.counts.restarts, restarts)
    assert.equal(await box.show('shared_buffers'), '512MB')
    box.machine = machine(2048, 4)
  })

  test('what does not start is taken back, and not tried again', async () => {
    await using retuner = box.retuner()
    const { restarts } = box.counts
    const client = await box.client()
    box.machine = { memoryBytes: 2 ** 44, cpus: 4 } // 4 TB of shared buffers: a valid number, and more than there is
    const { outcome, reason, stallMs = 0 } = await retuner.retune()
    assert.equal(outcome, 'rolled-back')
    assert.match(reason ?? '', /shared memory/i)
    assert.ok(stallMs > 0)
    assert.deepEqual((await client.query('SHOW shared_buffers')).rows, [{ shared_buffers: '512MB' }])
    await client.end()
    assert.equal(box.counts.restarts, restarts + 2)
    assert.equal((await retuner.retune()).outcome, 'refused')
    assert.equal(box.counts.restarts, restarts + 2)
    assert.match(box.log(), /taking it back/)
    box.machine = machine(2048, 4)
    assert.equal((await retuner.retune()).outcome, 'reloaded', 'half of the refused tuning was in force')
  })

  test('what the user has set is not worth a restart', async () => {
    await using retuner = box.retuner()
    box.writeUserLayer("shared_buffers = '64MB'\nmax_connections = 50\n")
    await box.postgres.restart()
    const { restarts } = box.counts
    box.machine = machine(4096, 4)
    assert.equal((await retuner.retune()).outcome, 'reloaded')
    assert.equal(await box.show('shared_buffers'), '64MB')
    assert.equal(await box.show('maintenance_work_mem'), '256MB')
    assert.equal(box.counts.restarts, restarts)
    box.writeUserLayer('')
    await box.postgres.restart()
  })

  test('changes are noticed, and several of them are one retune', async () => {
    await using retuner = box.retuner({ pollMs: 10, settleMs: 200 })
    const { restarts } = box.counts
    retuner.start()
    box.machine = machine(1024)
    await until('the first change is seen', async () => (await retuner.preview()).changed.length > 0)
    box.machine = machine(2048)
    box.machine = machine(2048, 4)
    await until('it is retuned', () => retuner.last?.outcome === 'restarted')
    assert.equal(retuner.last?.after, box.machine)
    assert.equal(await box.show('shared_buffers'), '512MB')
    assert.equal(box.counts.restarts, restarts + 1)
    const [one, two] = await Promise.all([retuner.retune(), retuner.retune()])
    assert.deepEqual([one.outcome, two.outcome], ['unchanged', 'unchanged'])
    await retuner[Symbol.asyncDispose]()
    await assert.rejects(retuner.retune(), { code: 'SHUTDOWN' })
  })

  test('a Postgres that was taken over, and runs with less than its file says, is restarted with what it says', async () => {
    // An earlier supervisor started it for 2GB; this one finds 4GB and has written that.
    box.machine = machine(4096, 4)
    box.writeTuning(box.machine)
    await box.reload()
    await using retuner = box.retuner()
    assert.equal((await retuner.retune()).outcome, 'restarted')
    assert.equal(await box.show('shared_buffers'), '1GB')
  })

  test('a box that stops does not wait for a retune, and holds no query back', async () => {
    await using retuner = box.retuner({ pauseMs: 30_000 })
    const holder = await box.client()
    await holder.query('BEGIN; SELECT 1')
    box.machine = machine(1024)
    const running = retuner.retune()
    running.catch(() => undefined)
    const waiting = await box.client()
    const isHeld = (): Promise<boolean> => Promise.race([waiting.query('SELECT 1').then(() => false), new Promise<boolean>((resolve) => setTimeout(resolve, 100, true))])
    await until('PgBouncer holds queries back', isHeld)
    await retuner[Symbol.asyncDispose]()
    await assert.rejects(running, { code: 'SHUTDOWN' })
    assert.equal((await waiting.query('SELECT 1')).rowCount, 1)
    await holder.query('COMMIT')
    await Promise.all([holder.end(), waiting.end()])
  })
})

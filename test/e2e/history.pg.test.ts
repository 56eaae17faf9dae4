/** Boxes that were put back to an older state of themselves, and what their subscribers are told. */
import assert from 'node:assert/strict'
import { after, before, beforeEach, describe, it } from 'node:test'
import { subscribe, type SubscribeOptions } from '../../src/transport/client.ts'
import { startCdc, type TestCdc } from '../support/cdc.ts'
import { Collector } from '../support/collector.ts'
import { startPostgres, until, type TestPostgres } from '../support/postgres.ts'
import { BoxCopies } from './box-copies.ts'

let postgres: TestPostgres
let cdc: TestCdc
let box: BoxCopies

const follow = (options: SubscribeOptions): Collector =>
  new Collector(subscribe({ ...cdc.connect, ...options, reconnect: { minMs: 20, maxMs: 200, connectTimeoutMs: 20_000 } }))
const insert = (...notes: string[]): Promise<unknown> => postgres.query(`INSERT INTO t (note) VALUES ${notes.map((note) => `('${note}')`).join(', ')}`)
const notes = (collector: Collector): unknown[] => collector.rows.map(({ after }) => after?.['note'])

/** Reads from the beginning until `note` came whole; answers where that leaves the subscriber. */
async function readUpTo(note: string): Promise<{ position: string; checkpoints: readonly string[] }> {
  await using reader = follow({ from: 'beginning' })
  await reader.until(`${note} has come`, () => notes(reader).includes(note) && reader.events.at(-1)!.kind === 'commit')
  return { position: reader.events.at(-1)!.position, checkpoints: reader.subscription.checkpoints }
}

async function positionOf(note: string): Promise<string> {
  return (await readUpTo(note)).position
}

/** The service must end by itself with exit code 4 and this error code. */
async function refuses(code: string, sentence: RegExp): Promise<void> {
  const before = cdc.log().length
  assert.equal(await cdc.ended(), 4, cdc.log().slice(before - 2000))
  const said = cdc.log().trimEnd().split('\n').at(-1)!
  assert.match(said, new RegExp(`\\[${code}\\]$`))
  assert.match(said, sentence)
}

before(async () => {
  postgres = await startPostgres({ max_slot_wal_keep_size: '64MB', max_wal_size: '64MB', min_wal_size: '32MB' })
  await postgres.query('CREATE TABLE t (id bigserial PRIMARY KEY, note text)')
  cdc = await startCdc(postgres, ['--heartbeat', '100', '--idle-mark', '20'])
  box = new BoxCopies(postgres, cdc)
  await insert('one')
  await insert('two')
  await positionOf('two')
  await box.stop()
  box.keep('base')
})
beforeEach(async () => {
  await box.stop()
  box.putBack('base')
  await box.start()
})
after(async () => {
  await cdc[Symbol.asyncDispose]()
  await postgres[Symbol.asyncDispose]()
})

describe('a box that was put back whole', () => {
  it('tells a subscriber that has seen more, and where both histories still agree', async () => {
    const shared = await positionOf('two')
    await insert('lost')
    await insert('lost too')
    const seen = await readUpTo('lost too')
    await box.stop()
    box.putBack('base')
    await box.start()
    await insert('another way')
    await insert('further')
    await using told = follow({ from: seen.position, checkpoints: seen.checkpoints })
    const error = await told.failure()
    assert.equal(error.code, 'HISTORY_BROKEN')
    assert.equal(error.facts['shared'], shared)
    assert.deepEqual(told.events, [])
    // From there on the new history can be had.
    await using goesOn = follow({ from: shared })
    await goesOn.until('the new history has come', () => notes(goesOn).includes('further'))
    assert.deepEqual(notes(goesOn), ['another way', 'further'])
  })

  it('tells so while nothing has been written since, and to a subscriber in the middle of a transaction', async () => {
    const shared = await positionOf('two')
    await insert('a', 'b', 'c')
    await using reader = follow({ from: shared })
    await reader.until('the transaction has come', () => reader.commits.length === 1)
    const middle = reader.rows[1].position
    await box.stop()
    box.putBack('base')
    await box.start()
    for (const from of [middle, reader.commits[0].position]) {
      await using told = follow({ from, checkpoints: [shared] })
      const error = await told.failure()
      assert.equal(error.code, 'HISTORY_BROKEN')
      assert.equal(error.facts['shared'], shared)
    }
    await insert('x', 'y', 'z')
    await positionOf('z')
    await using told = follow({ from: middle })
    const error = await told.failure()
    assert.equal(error.code, 'HISTORY_BROKEN')
    assert.equal(error.facts['shared'], shared)
  })

  it('goes on for a subscriber of an exact copy', async () => {
    await insert('a', 'b')
    await insert('c')
    const { position } = await readUpTo('c')
    await using reader = follow({ from: 'beginning' })
    await reader.until('all has come', () => notes(reader).includes('c'))
    const middle = reader.rows.find(({ after }) => after?.['note'] === 'a')!.position
    await box.stop()
    box.keep('exact')
    box.putBack('exact')
    await box.start()
    await insert('d')
    await using goesOn = follow({ from: position })
    await goesOn.until('d has come', () => notes(goesOn).includes('d'))
    assert.deepEqual(notes(goesOn), ['d'])
    await using fromMiddle = follow({ from: middle })
    await fromMiddle.until('d has come', () => notes(fromMiddle).includes('d'))
    assert.deepEqual(notes(fromMiddle), ['b', 'c', 'd'])
    await reader.until('d has come to who was connected', () => notes(reader).includes('d'))
    assert.deepEqual(notes(reader), ['one', 'two', 'a', 'b', 'c', 'd'])
  })
})

describe('a box of which one part was put back', () => {
  it('refuses a log that the slot has left behind', async () => {
    await insert('three')
    await positionOf('three')
    await box.stop()
    box.putBack('base', ['cdc'])
    await box.start()
    await refuses('HISTORY_DIVERGED', /The slot beyond_cdc is confirmed up to .*the change log reaches only .*--new-history/)
  })

  it('reads again what an older log lacks while the slot still has it, with the same positions and chain', async () => {
    await postgres.query('CHECKPOINT')
    await cdc.stop()
    await postgres.stop()
    box.keep('older')
    await box.start()
    await insert('three', 'four')
    await postgres.query("SELECT pg_logical_emit_message(false, 'note', 'five', true)")
    await using reader = follow({ from: 'beginning' })
    await reader.until('all has come', () => reader.events.some(({ kind }) => kind === 'message') && reader.events.at(-1)!.kind === 'commit')
    const { position } = reader.events.at(-1)!
    await Promise.all([postgres.stop('SIGKILL'), cdc.stop('SIGKILL')])
    box.putBack('older', ['cdc'])
    // Slots go to disk at checkpoints, mostly: a crash forgets what was confirmed since.
    box.putBack('older', ['data/pg_replslot'])
    await box.start()
    await using goesOn = follow({ from: position })
    await insert('six')
    await goesOn.until('six has come', () => notes(goesOn).includes('six'))
    assert.deepEqual(notes(goesOn), ['six'])
  })

  it('refuses a database that is behind the log, also when its WAL has grown past it', async () => {
    await insert('three')
    await positionOf('three')
    await box.stop()
    box.keep('ahead')
    box.putBack('base', ['data'])
    await box.start()
    await refuses('HISTORY_DIVERGED', /The change log reaches .*, the WAL of Postgres only .*--new-history/)

    const reached = (await postgres.query('SELECT pg_current_wal_lsn()::text'))[0][0]
    await insert(...Array.from({ length: 2_000 }, (_, i) => `other ${i}`))
    await until('the WAL has grown', async () => (await postgres.query(`SELECT pg_current_wal_flush_lsn() > '${reached}'::pg_lsn + 100000`))[0][0] === 't')
    await cdc.start()
    await refuses('HISTORY_DIVERGED', /Postgres has another transaction at .* put back and has gone another way/)

    // And when all of the new WAL concerns nothing that is published.
    await box.stop()
    box.putBack('ahead', ['cdc'])
    box.putBack('base', ['data'])
    await postgres.start()
    await postgres.query('CREATE DATABASE elsewhere')
    await postgres.query('CREATE TABLE t AS SELECT * FROM generate_series(1, 10000)', 'elsewhere')
    await cdc.start()
    await refuses('HISTORY_DIVERGED', /Postgres has nothing at .*, where the change log has a transaction/)
  })

  it('refuses a database whose log had been told that nothing came where something comes now', async () => {
    await postgres.query('CREATE DATABASE elsewhere')
    await postgres.query('CHECKPOINT')
    const before = (await cdcStatus()).slot.confirmedLsn
    await until('the slot has moved', async () => (await cdcStatus()).slot.confirmedLsn > before || (await cdcStatus()).slot.lagBytes === 0n)
    await box.stop()
    box.keep('early')
    await box.start()
    await postgres.query('CREATE TABLE u AS SELECT * FROM generate_series(1, 10000)', 'elsewhere')
    const end = (await postgres.query('SELECT pg_current_wal_lsn()::text'))[0][0]
    await until('the log has reached the end', async () => (await postgres.query(`SELECT confirmed_flush_lsn >= '${end}' FROM pg_replication_slots`))[0][0] === 't')
    await box.stop()
    box.putBack('early', ['data'])
    await postgres.start()
    await insert('inside of what was nothing')
    await insert(...Array.from({ length: 20_000 }, (_, i) => `other ${i}`))
    await cdc.start()
    await refuses('HISTORY_DIVERGED', /which was not there when the change log read up to/)
  })

  it('refuses another database system', async () => {
    await cdc.stop()
    await using other = await startPostgres()
    await other.query("CREATE ROLE beyond_cdc LOGIN REPLICATION PASSWORD 'test'")
    await other.query('CREATE PUBLICATION beyond FOR ALL TABLES')
    await cdc.start(['--socket-dir', other.socketDirectory])
    await refuses('HISTORY_DIVERGED', /The change log is of database system \d+, this Postgres is \d+/)
  })
})

const cdcStatus = async () => {
  const { connect } = await import('../../src/transport/client.ts')
  await using client = connect(cdc.connect)
  return await client.status()
}

describe('a slot', () => {
  it('that is gone, or gone and made again, is refused until a new history begins', async () => {
    const { position } = await readUpTo('two')
    await cdc.stop()
    await postgres.query("SELECT pg_drop_replication_slot('beyond_cdc')")
    await cdc.start()
    await refuses('SLOT_LOST', /The slot beyond_cdc is gone/)
    await postgres.query("SELECT pg_create_logical_replication_slot('beyond_cdc', 'pgoutput')")
    await cdc.start()
    await refuses('HISTORY_DIVERGED', /The slot beyond_cdc is confirmed up to/)

    await cdc.start(['--new-history'])
    await insert('new')
    await using reader = follow({ from: 'beginning' })
    await reader.until('the new history has come', () => notes(reader).includes('new'))
    assert.deepEqual(notes(reader), ['new'])
    await using told = follow({ from: position })
    const error = await told.failure()
    assert.equal(error.code, 'HISTORY_BROKEN')
    assert.equal(error.facts['shared'], undefined)
    // The next start goes on with it.
    await cdc.stop()
    await cdc.start()
    await insert('newer')
    await reader.until('it goes on', () => notes(reader).includes('newer'))
  })

  it('that Postgres has invalidated is refused', async () => {
    await cdc.stop()
    for (let i = 0; i < 8; i++) {
      await postgres.query(`INSERT INTO t (note) SELECT repeat('x', 1000) FROM generate_series(1, 15000)`)
      await postgres.query('SELECT pg_switch_wal()')
      await postgres.query('CHECKPOINT')
    }
    assert.equal((await postgres.query('SELECT wal_status FROM pg_replication_slots'))[0][0], 'lost')
    await cdc.start()
    await refuses('SLOT_LOST', /Postgres has invalidated the slot beyond_cdc \(wal_removed\)/)
  })

  it('without its publication is refused', async () => {
    await cdc.stop()
    await postgres.query('DROP PUBLICATION beyond')
    await cdc.start()
    assert.equal(await cdc.ended(), 5)
    assert.match(cdc.log().trimEnd().split('\n').at(-1)!, /The publication beyond is gone.*\[POSTGRES_REFUSED\]$/)
  })
})

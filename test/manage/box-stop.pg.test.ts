import assert from 'node:assert/strict'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import { BoxProcess, freePorts, kill, processesIn, query, startArguments, startBox, superuserPassword, temporaryFolder, until } from './box-process.ts'

test('a stop can be asked for at any time, and cut short', async (t) => {
  const folder = temporaryFolder(t)
  const data = join(folder, 'box')
  const ports = await freePorts()
  const args = startArguments(data, ports, '--no-cdc')
  const unfinished = join(data, 'postgres.unfinished')

  await t.test('kill -9 during initdb', async () => {
    const box = new BoxProcess(args)
    await until(() => existsSync(join(unfinished, 'PG_VERSION')))
    box.signal('SIGKILL')
    await box.ended
    assert.ok(!existsSync(join(data, 'postgres')))
  })

  await t.test('Ctrl-C during initdb, which removes what the one before left', async () => {
    const box = new BoxProcess(args)
    await until(() => box.stderr.includes('making the data directory'))
    assert.deepEqual(await box.stop(), { code: 0, signal: null })
    assert.deepEqual(processesIn(folder), [])
    assert.ok(!existsSync(join(data, 'postgres')))
  })

  await t.test('Ctrl-C while Postgres starts', async () => {
    const box = new BoxProcess(args)
    await until(() => existsSync(join(data, 'postgres/postmaster.pid')) || box.stdout !== '')
    assert.deepEqual(await box.stop(), { code: 0, signal: null })
    assert.deepEqual(processesIn(folder), [])
  })

  await t.test('a second Ctrl-C does not wait for running transactions', async () => {
    mkdirSync(unfinished) // half of an initdb, from long ago
    writeFileSync(join(unfinished, 'PG_VERSION'), '18\n')
    const { box, file } = await startBox(data, ports)
    assert.ok(!existsSync(unfinished))
    await query(file, 'CREATE TABLE kept AS SELECT 1 AS n')
    const client = new Client({ ...file.pooler, user: 'postgres', password: superuserPassword(file), database: 'postgres' })
    client.on('error', () => undefined)
    await client.connect()
    await client.query('BEGIN')
    await client.query('SELECT 1')
    box.signal('SIGINT')
    await until(() => box.stderr.includes('stopping'))
    await sleep(600) // a second Ctrl-C is only one that comes half a second later
    assert.ok(processesIn(folder).length > 1, 'it waits for the transaction')
    const asked = performance.now()
    box.signal('SIGINT')
    assert.deepEqual(await box.ended, { code: 0, signal: null })
    t.diagnostic(`cut short in ${Math.round(performance.now() - asked)} ms`)
    assert.deepEqual(processesIn(folder), [])
    await client.end().catch(() => undefined)
  })

  await t.test('and after that it starts again', async () => {
    const { box, file } = await startBox(data, ports)
    assert.equal((await query(file, 'SELECT n FROM kept')).length, 1)
    const stopping = box.stop()
    await stopping
    for (const pid of processesIn(folder)) kill(pid)
  })
})

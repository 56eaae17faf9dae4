/** A box and its sinks, all real: what was acknowledged is there again, whatever became of the volume. */
import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { freePorts, query, temporaryFolder } from './box-process.ts'
import { copy, count, crash, start, timeline, write } from './sink-box.ts'
import { startSinks } from './sink-processes.ts'

test('one sink: a volume that lost its last commits comes back with all of them, on a new timeline', async (t) => {
  const folder = temporaryFolder(t)
  const [data, old] = [join(folder, 'box'), join(folder, 'old')]
  const ports = await freePorts()
  const sinks = await startSinks(t, folder, 1)
  const first = await start(data, ports, sinks)
  assert.deepEqual(await query(first.file, 'SHOW synchronous_standby_names'), [{ synchronous_standby_names: 'ANY 1 ("sink1")' }])
  await query(first.file, 'CREATE TABLE marks (i int PRIMARY KEY, x text)')
  await write(first.file, 1, 100)
  assert.equal((await first.box.stop()).code, 0)
  copy(data, old)

  const second = await start(data, ports, sinks)
  assert.equal(await timeline(second.file), 2)
  // More than a segment, so that whole ones and the last one are needed.
  await write(second.file, 101, 60_000)
  for (let i = 60_001; i <= 60_020; i++) await write(second.file, i, i)
  await crash(data)

  // As it is: nothing is lost that the disk had.
  const third = await start(data, ports, sinks)
  assert.equal(await count(third.file), 60_020)
  assert.equal(await timeline(third.file), 3)
  await write(third.file, 60_021, 60_030)
  await crash(data)

  // Two generations older.
  rmSync(data, { recursive: true })
  copy(old, data)
  const fourth = await start(data, ports, sinks)
  assert.equal(await count(fourth.file), 60_030)
  assert.equal(await timeline(fourth.file), 4)
  await write(fourth.file, 60_031, 60_031)
  assert.equal((await fourth.box.stop()).code, 0)
})

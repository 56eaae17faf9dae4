/** Three sinks: one may be gone, two make the promise, and an old primary that comes back can make none. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { BoxProcess, freePorts, processesIn, query, startArguments, temporaryFolder, until } from './box-process.ts'
import { copy, count, crash, start, write } from './sink-box.ts'
import { startSinks } from './sink-processes.ts'

/** A write that is not acknowledged for so long is not going to be. */
const HANGS_MS = 1_500

test('three sinks, one of them lost; the old primary goes on and acknowledges nothing', async (t) => {
  const folder = temporaryFolder(t)
  const [data, other] = [join(folder, 'box'), join(folder, 'other')]
  const [ports, otherPorts] = [await freePorts(), await freePorts()]
  const sinks = await startSinks(t, folder, 3)
  const [one, , three] = sinks.all
  const first = await start(data, ports, sinks)
  assert.deepEqual(await query(first.file, 'SHOW synchronous_standby_names'), [{ synchronous_standby_names: 'ANY 2 ("sink1", "sink2", "sink3")' }])
  await query(first.file, 'CREATE TABLE marks (i int PRIMARY KEY, x text)')
  await first.box.stop()
  copy(data, other)

  const old = await start(data, ports, sinks)
  await three.kill()
  await write(old.file, 1, 100)
  const stopped = processesIn(data)
  for (const pid of stopped) process.kill(pid, 'SIGSTOP')

  const next = await start(other, otherPorts, sinks)
  assert.equal(await count(next.file), 100)
  await write(next.file, 101, 200)
  for (const pid of stopped) process.kill(pid, 'SIGCONT')
  const late = write(old.file, 1_001, 1_001).then(() => 'acknowledged', () => 'refused')
  assert.notEqual(await Promise.race([late, sleep(HANGS_MS, 'hangs')]), 'acknowledged')
  await write(next.file, 201, 300)
  assert.equal(await Promise.race([late, sleep(0, 'hangs')]), 'hangs')
  await crash(data)

  // The one that was gone takes part again by itself; then another may go.
  await three.start()
  await until(async () => {
    const rows = await query(next.file, "SELECT FROM pg_stat_replication WHERE application_name = 'sink3' AND sync_state = 'quorum' AND state = 'streaming'")
    return rows.length === 1
  })
  await one.kill()
  await write(next.file, 301, 350)

  // The volume of the old primary holds a commit that was never acknowledged, and history went on without it.
  const again = new BoxProcess(startArguments(data, ports, '--no-cdc'), { env: sinks.environment })
  assert.equal((await again.ended).code, 4)
  assert.match(again.stderr, /Another box has taken over from this volume/)
  // It was told so before it sealed anything: the primary of now goes on.
  await write(next.file, 351, 400)
  await crash(other)

  const end = await start(other, otherPorts, sinks)
  assert.equal(await count(end.file), 400)
  await end.box.stop()
})

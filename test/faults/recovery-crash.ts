/** A recovery that is cut off around each of its steps, by the death of the box alone or of everything, and booted again. Run with node --test: it has failed once in four runs, for a reason that is not known yet. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { Victim } from './boot-victim.ts'
import { freePorts, query, temporaryFolder } from '../manage/box-process.ts'
import { copy, count, crash, start, write } from '../manage/sink-box.ts'
import { startSinks } from '../manage/sink-processes.ts'

const program = fileURLToPath(new URL('./boot-victim.ts', import.meta.url))

/** Where the test runner says they are. */
const programs = Object.fromEntries(
  ['BEYOND_PG_BINDIR', 'BEYOND_PGBOUNCER'].flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])),
)

const deaths = [
  { name: 'sinks', moment: 'done', all: true },
  { name: 'postgres', moment: 'done', all: true },
  { name: 'postgres', moment: 'done', all: false },
  { name: 'sink gate', moment: 'planned', all: false },
  { name: 'sink gate', moment: 'done', all: true },
] as const

test('a recovery that is cut off anywhere ends with every acknowledged row', async (t) => {
  const folder = temporaryFolder(t)
  const [data, old] = [join(folder, 'box'), join(folder, 'old')]
  const ports = await freePorts()
  const sinks = await startSinks(t, folder, 1)
  const first = await start(data, ports, sinks)
  await query(first.file, 'CREATE TABLE marks (i int PRIMARY KEY, x text)')
  await write(first.file, 1, 100)
  await crash(data)
  copy(data, old)
  const second = await start(data, ports, sinks)
  await write(second.file, 101, 300)
  await crash(data)
  rmSync(data, { recursive: true })
  copy(old, data)

  for (const { name, moment, all } of deaths) {
    const config = join(folder, 'victim.json')
    const settings = {
      ...sinks.environment,
      ...programs,
      BEYOND_PG_DATA: data,
      BEYOND_PG_PORT: String(ports.pooler),
      BEYOND_PG_POSTGRES_PORT: String(ports.postgres),
      BEYOND_PG_QUIC_PORT: String(ports.quic),
      BEYOND_PG_NO_CDC: '1',
    }
    writeFileSync(config, JSON.stringify({ settings, ready: true, step: { name, moment } } satisfies Victim))
    const child = spawn(process.execPath, [program, config], { stdio: ['ignore', 'pipe', 'pipe'], detached: true })
    let said = ''
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (said += text))
    const [, signal] = (await once(child, 'close')) as [number | null, string | null]
    assert.equal(signal, 'SIGKILL', `${name} ${moment}: ${said}`)
    assert.ok(!said.includes('"ready":true'), `it should have died at ${name} ${moment}`)
    if (all) await crash(data)
  }
  const last = await start(data, ports, sinks)
  assert.equal(await count(last.file), 300)
  await write(last.file, 301, 301)
  assert.equal((await last.box.stop()).code, 0)
})

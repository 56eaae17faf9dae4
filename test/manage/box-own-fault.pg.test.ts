import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { BoxProcess, freePorts, processesIn, query, startArguments, temporaryFolder, until } from './box-process.ts'

/** Loaded into the supervisor: faults of ours at a signal, as if an hour of peace, or no time at all, had gone before. */
const FAULTS = `
const now = performance.now.bind(performance)
let hour = 0
performance.now = () => now() + hour
process.on('SIGWINCH', () => { hour = 3_600_000; throw new Error('a fault after an hour') })
process.on('SIGPWR', () => { throw new Error('a fault at once') })
`

test('a fault of our own starts the supervisor anew and leaves the children alone, unless it comes at once', async (t) => {
  const folder = temporaryFolder(t)
  const data = join(folder, 'box')
  const faults = join(folder, 'faults.mjs')
  writeFileSync(faults, FAULTS)
  const box = new BoxProcess(startArguments(data, await freePorts(), '--no-cdc'), { env: { NODE_OPTIONS: `--import=${pathToFileURL(faults).href}` } })
  const file = await box.ready()
  const pids = (): number[] => ['postgres', 'pgbouncer', 'supervisor'].map((name) => (JSON.parse(readFileSync(join(data, 'run', `${name}.json`), 'utf8')) as { pid: number }).pid)
  const before = pids()
  process.kill(box.pid, 'SIGWINCH')
  await until(() => box.readies === 2)
  assert.deepEqual(pids(), before, 'also the supervisor is the same process')
  assert.match(box.stderr, /starts anew after a fault: Error: a fault after an hour/)
  assert.equal((await query(file, 'SELECT 1 AS one'))[0]['one'], 1)
  process.kill(box.pid, 'SIGPWR')
  const { code } = await box.ended
  assert.notEqual(code, 0)
  assert.match(box.stderr, /a fault at once/)
  assert.deepEqual(processesIn(folder), [])
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { renderSettings } from '../../src/manage/postgres-config.ts'
import { planTuning, settingsOf, type TuningInput } from '../../src/manage/tuning.ts'
import { startPostgres } from '../support/postgres.ts'

const MB = 2 ** 20

const machines: TuningInput[] = [
  { memoryBytes: 256 * MB, cpus: 1 },
  { memoryBytes: 512 * MB, cpus: 2, ephemeral: true },
  { memoryBytes: 24_576 * MB, cpus: 8, profile: 'development' },
]

for (const machine of machines) {
  test(`Postgres starts with what ${machine.memoryBytes / MB}MB get, and agrees on what needs a restart`, async () => {
    const { settings } = planTuning(machine)
    const texts = Object.fromEntries(settings.map(({ name, value }) => [name, String(value)]))
    await using server = await startPostgres(texts)
    const rows = await server.query('SELECT name, context, setting, unit FROM pg_settings')
    const found = new Map(rows.map(([name, context, setting, unit]) => [name, { context, setting, unit }]))
    for (const { name, value, restart } of settings) {
      assert.ok(found.has(name), `${name} is a setting of Postgres`)
      assert.equal(found.get(name)?.context === 'postmaster', restart, name)
      if (typeof value === 'number') assert.equal(Number(found.get(name)?.setting), value, name)
    }
    const [[total]] = await server.query("SELECT setting::int FROM pg_settings WHERE name = 'shared_memory_size'")
    assert.ok(Number(total) * MB < machine.memoryBytes / 2, `${total}MB of shared memory`)
  })
}

test('the layer that is written holds each setting once', () => {
  const text = renderSettings('Title.', settingsOf(planTuning({ memoryBytes: 1024 * MB, cpus: 2 })))
  const names = [...text.matchAll(/^(\w+) = /gm)].map(([, name]) => name)
  assert.ok(names.length > 25)
  assert.equal(new Set(names).size, names.length)
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import pino from 'pino'
import { type BoxConfig, parseLocalConfig } from '../../src/manage/box-config.ts'
import { type Reloaded, watchSettings } from '../../src/manage/reload.ts'

const config = (settings: Record<string, string>): BoxConfig => parseLocalConfig({}, settings, '/here')

test('settings are read again and again: live ones are taken over, others told once, and a source that fails is told once', async () => {
  const stop = new AbortController()
  const lines: string[] = []
  const logger = pino({ base: null }, { write: (line: string) => void lines.push((JSON.parse(line) as { msg: string }).msg) })
  let current = config({}).settings
  let reads = 0
  let reloads = 0
  // Each is read twice.
  const sequence: (() => BoxConfig)[] = [
    () => config({}),
    () => config({ BEYOND_PG_PORT: '6000' }),
    () => {
      throw new Error('gone')
    },
    () => config({ BEYOND_PG_PORT: '6000', BEYOND_PG_TABLES: 'a' }),
  ]
  await watchSettings({
    everyMs: 1,
    signal: stop.signal,
    logger,
    current: () => current,
    readConfig: async () => {
      const at = Math.floor(reads++ / 2)
      if (at >= sequence.length) stop.abort()
      return sequence[Math.min(at, sequence.length - 1)]()
    },
    reload: async (): Promise<Reloaded> => {
      reloads++
      current = config({ BEYOND_PG_TABLES: 'a' }).settings
      return { applied: [], waiting: [], problems: [] }
    },
  })
  assert.equal(reloads, 1)
  assert.deepEqual(lines.slice(0, 2), ['settings have changed that wait for a restart', 'the settings can not be read again, so they stay as they are'])
  assert.ok(lines.length <= 3, lines.join('\n'))
})

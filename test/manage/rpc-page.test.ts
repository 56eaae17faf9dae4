import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { metricsOf } from '../../src/manage/metrics.ts'
import { boxMethods } from '../../src/manage/rpc-methods.ts'
import { decodeAnswer, decodeRequest, MAX_DEADLINE_MS, MAX_REQUEST_BYTES } from '../../src/manage/rpc-protocol.ts'
import { rpcBounds } from '../../src/manage/rpc-server.ts'
import type { BoxView } from '../../src/manage/status.ts'
import { postgres, statusOf, well } from './box-facts.ts'

const page = readFileSync(new URL('../../docs/rpc.md', import.meta.url), 'utf8')
const source = (name: string): string => readFileSync(new URL(`../../src/manage/${name}`, import.meta.url), 'utf8')

test('docs/rpc.md names every finding, and none that there is not', () => {
  const table = page.slice(page.indexOf('| Code |'), page.indexOf('`protected` on the screen'))
  const told = [...table.matchAll(/^\| (`.*?) \|/gm)].flatMap(([, cell]) => [...cell.matchAll(/`([a-z-]+)`/g)].map(([, code]) => code))
  const codes = [...source('health.ts').matchAll(/(?:problem|warning|make)\('([a-z-]+)'/g)].map(([, code]) => code)
  assert.deepEqual(told.toSorted(), [...new Set([...codes, 'postgres-down', 'pgbouncer-down', 'cdc-down'])].toSorted())
})

test('docs/rpc.md names every metric, and none that there is not', () => {
  const replica = { streaming: true, receivedLsn: null, replayedLsn: null, replayBytes: 0, replayMs: 0, silentMs: 0, paused: false }
  const standbys = [{ name: 's', state: 'streaming', sync: 'async', flushed: null, lagBytes: 1, lagMs: 1 }]
  const all = metricsOf(statusOf({ ...well, box: { ...well.box, problems: ['x'] }, postgres: { ...postgres, replica, standbys } }))
  const names = [...all.matchAll(/^# TYPE beyond_pg_(\w+)/gm)].map(([, name]) => name)
  const table = page.slice(page.indexOf('| Names |'), page.indexOf('## The protocol'))
  const told = [...table.matchAll(/^\| (`.*?) \|/gm)].flatMap(([, cell]) => [...cell.matchAll(/`(\w+)`/g)].map(([, name]) => name))
  assert.deepEqual(told.toSorted(), names.toSorted())
})

test('docs/rpc.md names every method with its deadline, and the bounds', () => {
  const told = new Map([...page.matchAll(/^\| `(\w+)` \|.*?\| (\d+ (?:s|min)|none) \|/gm)].map(([, name, deadline]) => [name, deadline]))
  const text = (ms: number | undefined): string => (ms === undefined ? 'none' : ms > 60_000 ? `${ms / 60_000} min` : `${ms / 1000} s`)
  for (const [name, { deadlineMs }] of boxMethods({} as BoxView, '')) assert.equal(told.get(name), text(deadlineMs), name)
  const { connections, requests, lineMs, idleMs, writeMs } = rpcBounds
  const bounds = `Bounds: ${connections} connections, ${requests} requests at a time in all; ${lineMs / 1000} s for a line`
  assert.ok(page.includes(bounds) && page.includes(`closed after ${idleMs / 1000} s`) && page.includes(`does not read for ${writeMs / 1000} s`))
  assert.ok(MAX_REQUEST_BYTES === 1024 ** 2 && page.includes(`1 to ${MAX_DEADLINE_MS.toLocaleString('en')}`))
})

test('the examples of docs/rpc.md are read as they are meant', () => {
  const lines = [...page.matchAll(/^([→←]) (\{.*\})$/gm)]
  assert.equal(lines.length, 6)
  for (const [, direction, line] of lines) {
    const bytes = Buffer.from(line)
    if (direction === '→') assert.notEqual(decodeRequest(bytes).kind, 'refusal', line)
    else assert.ok(decodeAnswer(bytes), line)
  }
})

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { request } from 'node:http'
import { connect } from 'node:net'
import { test } from 'node:test'
import { metricsOf } from '../../src/manage/metrics.ts'
import { serveMetrics } from '../../src/manage/metrics-http.ts'
import { renderMetrics } from '../../src/manage/metrics-text.ts'
import { statusOf, well } from './box-facts.ts'

/** The text format, line by line, as its specification gives it. */
const COMMENT = /^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$/
const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*")*\})? (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|NaN|[+-]Inf)$/

function check(text: string): Map<string, number> {
  const values = new Map<string, number>()
  const families = new Map<string, string>()
  let current = ''
  assert.ok(text.endsWith('\n'))
  for (const line of text.split('\n').slice(0, -1)) {
    const comment = COMMENT.exec(line)
    if (comment) {
      const [, kind, name, rest] = comment
      if (kind === 'HELP') assert.ok(!families.has(name), `${name} comes twice`)
      else families.set((current = name), rest)
      continue
    }
    const sample = SAMPLE.exec(line)
    assert.ok(sample, `not a line of the format: ${line}`)
    assert.equal(sample[1], current, 'samples follow their family')
    const key = `${sample[1]}${sample[2] ?? ''}`
    assert.ok(!values.has(key), `${key} comes twice`)
    values.set(key, Number(sample[3]))
  }
  for (const [name, type] of families) {
    assert.match(type, /^(gauge|counter)$/)
    assert.equal(name.endsWith('_total'), type === 'counter', `${name} is a ${type}`)
    assert.ok(name.startsWith('beyond_pg_'))
  }
  return values
}

test('the metrics of a box that is well', () => {
  const values = check(metricsOf(statusOf(well)))
  assert.equal(values.get('beyond_pg_healthy'), 1)
  assert.equal(values.get('beyond_pg_query_duration_seconds'), 0.0032)
  assert.equal(values.get('beyond_pg_postgres_wal_lsn_bytes'), 0x1a * 2 ** 32 + 0x2b3c4d5e)
  assert.equal(values.get('beyond_pg_child_restarts_total{child="cdc"}'), 1)
  assert.equal(values.get('beyond_pg_postgres_checkpoints_total{cause="time"}'), 900)
  assert.equal(values.get('beyond_pg_pooler_wait_seconds_total'), 0.25)
  assert.equal(values.get('beyond_pg_slot_retained_bytes{slot="beyond_cdc",kind="logical"}'), 56)
  assert.equal(values.get('beyond_pg_changes_subscribers'), 2)
  assert.equal(values.get('beyond_pg_changes_subscriber_lag_bytes_max'), 2048)
  assert.equal(values.get('beyond_pg_changes_consumer_lag_seconds{consumer="search"}'), 60)
  assert.ok(values.size > 80)
})

test('what is not known has no metrics, but is told to be down', () => {
  const dark = statusOf({ ...well, postgres: { error: 'x' }, pooler: { error: 'x' }, changes: { error: 'x' }, query: { error: 'x' }, disk: { error: 'x' } })
  const values = check(metricsOf(dark))
  for (const part of ['postgres_up', 'pooler_up', 'changes_up', 'query_up', 'healthy']) assert.equal(values.get(`beyond_pg_${part}`), 0, part)
  assert.equal(values.get('beyond_pg_findings{level="problem",code="query-failed"}'), 1)
  assert.ok(![...values.keys()].some((key) => /_disk_|_database_|query_duration/.test(key)))
})

test('labels and helps are escaped, odd values written as the format wants them', () => {
  const odd = renderMetrics([
    { name: 'beyond_pg_a', type: 'gauge', help: 'one\ntwo \\ three', samples: [[1, { name: 'a "b"\\\nc' }], [NaN, { name: 'n' }], [Infinity, { name: 'i' }], [null, { name: 'none' }], [1e21, { name: 'big' }]] },
    { name: 'beyond_pg_b', type: 'gauge', help: 'none', samples: [[null]] },
  ])
  check(odd)
  assert.equal(
    odd,
    '# HELP beyond_pg_a one\\ntwo \\\\ three\n# TYPE beyond_pg_a gauge\nbeyond_pg_a{name="a \\"b\\"\\\\\\nc"} 1\nbeyond_pg_a{name="n"} NaN\nbeyond_pg_a{name="i"} +Inf\nbeyond_pg_a{name="big"} 1e+21\n',
  )
})

test('over HTTP: /metrics, on loopback, by a local name, one look at a time', async () => {
  let looks = 0
  let fail = false
  await using server = await serveMetrics(0, async () => {
    looks++
    await new Promise((resolve) => setTimeout(resolve, 50))
    if (fail) throw new Error('no')
    return 'x 1\n'
  })
  const ask = async (path: string, options: { method?: string; host?: string } = {}): Promise<string> => {
    const headers = options.host === undefined ? {} : { host: options.host }
    const sent = request({ host: '127.0.0.1', port: server.port, path, method: options.method ?? 'GET', headers }).end()
    const [response] = await once(sent, 'response')
    let text = `${response.statusCode} ${response.headers['content-type']} `
    for await (const chunk of response) text += String(chunk)
    return text
  }
  assert.equal(await ask('/metrics'), '200 text/plain; version=0.0.4; charset=utf-8 x 1\n')
  assert.match(await ask('/metrics?x=1'), /^200/)
  assert.match(await ask('/'), /^404/)
  assert.match(await ask('/metrics', { method: 'POST' }), /^405/)
  assert.match(await ask('/metrics', { host: 'evil.example' }), /^403/)
  assert.match(await ask('/metrics', { host: 'localhost:1' }), /^200/)
  looks = 0
  await Promise.all(Array.from({ length: 8 }, () => ask('/metrics')))
  assert.ok(looks < 8, 'those who ask at the same time share an answer')
  fail = true
  assert.match(await ask('/metrics'), /^503/)
  const nonsense = connect(server.port, '127.0.0.1').on('error', () => undefined).resume()
  nonsense.write(Buffer.alloc(20_000, 0x41))
  await once(nonsense, 'close')
  await assert.rejects(serveMetrics(server.port, async () => ''), { code: 'PORT_IN_USE' })
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseControlData } from '../../src/manage/recovery-volume.ts'
import { restoreCommand } from '../../src/manage/recovery-stage.ts'
import { accessLines, listenSettings, primaryConninfoFor } from '../../src/manage/sink-primary.ts'
import type { Layout } from '../../src/manage/layout.ts'

const output = `pg_control version number:            1800
Database system identifier:           7710953517399246571
Database cluster state:               in production
Latest checkpoint location:           0/1786948
Latest checkpoint's REDO location:    0/17868D0
Latest checkpoint's TimeLineID:       3
Latest checkpoint's PrevTimeLineID:   3
Bytes per WAL segment:                16777216
`

test('pg_controldata is read whole or not at all', () => {
  assert.deepEqual(parseControlData(output), { systemId: 7710953517399246571n, segmentBytes: 16777216, timeline: 3, redo: 0x17868d0n })
  for (const line of output.split('\n').filter((each) => /identifier|REDO|s TimeLineID|segment/.test(each))) assert.equal(parseControlData(output.replace(line, '')), undefined)
})

test('the restore command survives any name of a folder', () => {
  const command = restoreCommand({ root: "/srv/a'b 100%" } as Layout)
  assert.ok(command.includes(String.raw`'/srv/a'\''b 100%%/recovery'`))
})

test('off loopback Postgres takes replication over TLS and nothing else', () => {
  const files = { serverCertificate: '/c', serverKey: '/k' }
  assert.deepEqual(listenSettings('127.0.0.1', files), {})
  assert.deepEqual(accessLines('::1'), [])
  assert.equal(listenSettings('10.0.0.5', files)['listen_addresses'], '127.0.0.1,10.0.0.5')
  assert.equal(listenSettings('10.0.0.5', files)['ssl'], true)
  assert.deepEqual(accessLines('10.0.0.5'), ['hostssl\treplication\tbeyond_sink\tall\tscram-sha-256'])
  assert.deepEqual(primaryConninfoFor('10.0.0.5', 5433, 'x'), { host: '10.0.0.5', sslmode: 'require', port: '5433', user: 'beyond_sink', password: 'x' })
  assert.equal(primaryConninfoFor('127.0.0.1', 5433, 'x')['host'], '127.0.0.1')
})

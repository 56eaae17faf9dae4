import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { BeyondError } from '../../src/errors.ts'
import { ensureTlsFiles, type TlsPaths } from '../../src/manage/tls-files.ts'

const DAY = 86_400_000
const now = new Date('2030-01-01T00:00:00Z')

function folder(t: TestContext): TlsPaths {
  const directory = mkdtempSync(join(tmpdir(), 'beyond-tls-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const path = (name: string): string => join(directory, name)
  return {
    ca: path('ca.crt'),
    caKey: path('ca.key'),
    serverCertificate: path('server.crt'),
    serverKey: path('server.key'),
    clientCertificate: path('client.crt'),
    clientKey: path('client.key'),
  }
}
const ensure = (paths: TlsPaths, options: { at?: Date; names?: string[] } = {}) =>
  ensureTlsFiles({ paths, serverNames: options.names ?? ['localhost', '127.0.0.1'], serverOwner: undefined, now: options.at ?? now })

test('makes all once, keys for nobody else', async (t) => {
  const paths = folder(t)
  assert.deepEqual(await ensure(paths), ['authority', 'server', 'client'])
  for (const key of [paths.caKey, paths.serverKey, paths.clientKey]) assert.equal(statSync(key).mode & 0o777, 0o600)
  assert.deepEqual(await ensure(paths), [])
  const ca = new X509Certificate(readFileSync(paths.ca))
  assert.ok(Date.parse(ca.validTo) - now.getTime() > 3650 * DAY)
})

test('renews a pair thirty days before its end, and keeps the authority', async (t) => {
  const paths = folder(t)
  await ensure(paths)
  const ca = readFileSync(paths.ca, 'utf8')
  assert.deepEqual(await ensure(paths, { at: new Date(now.getTime() + 366 * DAY) }), [])
  assert.deepEqual(await ensure(paths, { at: new Date(now.getTime() + 368 * DAY) }), ['server', 'client'])
  assert.equal(readFileSync(paths.ca, 'utf8'), ca)
})

test('mends a key and a certificate that do not match, as a crash between them leaves', async (t) => {
  const paths = folder(t)
  await ensure(paths)
  writeFileSync(paths.serverKey, readFileSync(paths.clientKey))
  assert.deepEqual(await ensure(paths), ['server'])
  rmSync(paths.clientCertificate)
  assert.deepEqual(await ensure(paths), ['client'])
  writeFileSync(paths.serverCertificate, 'torn')
  assert.deepEqual(await ensure(paths), ['server'])
  // The authority's key without its certificate: it was never shown to anybody.
  rmSync(paths.ca)
  assert.deepEqual(await ensure(paths), ['authority', 'server', 'client'])
})

test('makes the server anew when it needs another name', async (t) => {
  const paths = folder(t)
  await ensure(paths)
  assert.deepEqual(await ensure(paths, { names: ['localhost', '127.0.0.1', '192.0.2.1'] }), ['server'])
  assert.deepEqual(await ensure(paths), [])
})

test('never replaces the authority: without its key it says what is missing', async (t) => {
  const paths = folder(t)
  await ensure(paths)
  rmSync(paths.caKey)
  assert.deepEqual(await ensure(paths), [], 'nothing to sign')
  await assert.rejects(
    () => ensure(paths, { at: new Date(now.getTime() + 390 * DAY) }),
    (error) => error instanceof BeyondError && error.code === 'BAD_CERTIFICATE' && error.message.includes(paths.caKey),
  )
})

import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
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

test('a certificate and its key are swapped by one rename, and the pair before stays readable', async (t) => {
  const paths = folder(t)
  const directory = dirname(paths.ca)
  await ensure(paths)
  const before = readlinkSync(join(directory, 'server'))
  const read = (): string => `${readFileSync(paths.serverCertificate, 'utf8')}${readFileSync(paths.serverKey, 'utf8')}`
  const old = read()
  await ensure(paths, { at: new Date(now.getTime() + 390 * DAY) })
  assert.notEqual(readlinkSync(join(directory, 'server')), before)
  assert.notEqual(read(), old)
  assert.equal(readlinkSync(paths.serverKey), 'server/server.key')
  assert.ok(existsSync(join(directory, before, 'server.key')))
  await ensure(paths, { at: new Date(now.getTime() + 780 * DAY) })
  assert.ok(!existsSync(join(directory, before)), 'the one before that is gone')
  assert.equal(readdirSync(join(directory, 'pairs')).length, 4)
})

test('plain files of an earlier version keep what they say, and become a pair', async (t) => {
  const paths = folder(t)
  await ensure(paths)
  const certificate = readFileSync(paths.serverCertificate, 'utf8')
  for (const path of [paths.serverCertificate, paths.serverKey]) {
    const text = readFileSync(path, 'utf8')
    rmSync(path)
    writeFileSync(path, text, { mode: 0o600 })
  }
  rmSync(join(dirname(paths.ca), 'server'))
  assert.deepEqual(await ensure(paths), [])
  assert.equal(readFileSync(paths.serverCertificate, 'utf8'), certificate)
  assert.equal(readlinkSync(paths.serverCertificate), 'server/server.crt')
})

test('a swap that is cut off anywhere leaves a pair, old or new', async (t) => {
  const paths = folder(t)
  await ensure(paths)
  const directory = dirname(paths.ca)
  // As a kill before the rename leaves it: half of a new pair, and the link beside.
  mkdirSync(join(directory, 'pairs/server-half'))
  writeFileSync(join(directory, 'pairs/server-half/server.key'), 'half')
  symlinkSync('pairs/server-half', join(directory, 'server.beyond-new'))
  assert.deepEqual(await ensure(paths), [])
  assert.deepEqual(await ensure(paths, { at: new Date(now.getTime() + 390 * DAY) }), ['server', 'client'])
  assert.ok(!existsSync(join(directory, 'pairs/server-half')))
  // As a kill before the very first link leaves it.
  rmSync(join(directory, 'server'))
  assert.deepEqual(await ensure(paths, { at: new Date(now.getTime() + 390 * DAY) }), ['server'])
})

import assert from 'node:assert/strict'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { before, test } from 'node:test'
import { quic } from '../../src/transport/openssl-quic.ts'
import type { Credentials } from '../../src/transport/quic.ts'
import { createAuthority } from '../support/certificates.ts'
import { ALPN, createIdentities, dial, limits, listen, type Identities } from './quic-pair.ts'

let ids: Identities
before(async () => {
  ids = await createIdentities()
})

async function credentials(options: Parameters<Identities['authority']['issue']>[0]): Promise<Credentials> {
  return { ...(await ids.authority.issue(options)), ca: ids.authority.cert }
}

/** What a listener with these credentials tells about who came in. */
async function listenWatched(server: Credentials): Promise<{ listener: Awaited<ReturnType<typeof listen>>; came: string[] }> {
  const listener = await listen(server)
  const came: string[] = []
  listener.onConnection = (connection) => void came.push(connection.peerName)
  return { listener, came }
}

const past = { notBefore: new Date(Date.now() - 3 * 86_400_000), notAfter: new Date(Date.now() - 86_400_000) }

test('a client of another authority is refused by the server, and told', async () => {
  const { listener, came } = await listenWatched(ids.server)
  const other = await createAuthority('another authority')
  const stranger = { ...(await other.issue({ name: 'stranger', use: 'client' })), ca: ids.authority.cert }
  await assert.rejects(dial(listener, stranger), {
    code: 'UNAUTHENTICATED',
    message: /refused our certificate.*(unknown certificate authority|bad certificate)/,
  })
  assert.deepEqual(came, [])
  await listener.close()
})

test('a server of another authority is refused by the client', async () => {
  const { listener, came } = await listenWatched(ids.server)
  const other = await createAuthority('another authority')
  await assert.rejects(dial(listener, { ...ids.client, ca: other.cert }), {
    code: 'UNAUTHENTICATED',
    message: /not accepted.*(self-signed|unable to get local issuer)/,
  })
  assert.deepEqual(came, [])
  await listener.close()
})

test('expired certificates are refused on both sides', async () => {
  const { listener, came } = await listenWatched(ids.server)
  await assert.rejects(dial(listener, await credentials({ name: 'late', use: 'client', ...past })), {
    code: 'UNAUTHENTICATED',
    message: /certificate expired/,
  })
  assert.deepEqual(came, [])
  await listener.close()
  await using late = await listen(await credentials({ name: 'late', use: 'server', hosts: ['127.0.0.1'], ...past }))
  await assert.rejects(dial(late, ids.client), { code: 'UNAUTHENTICATED', message: /certificate has expired/ })
})

test('certificates serve their purpose only', async () => {
  const { listener, came } = await listenWatched(ids.server)
  await assert.rejects(dial(listener, ids.server), { code: 'UNAUTHENTICATED' })
  assert.deepEqual(came, [])
  await listener.close()
  await using wrong = await listen(await credentials({ name: 'a client', use: 'client', hosts: ['127.0.0.1'] }))
  await assert.rejects(dial(wrong, ids.client), { code: 'UNAUTHENTICATED', message: /purpose/ })
})

test('the name of the server is checked: address, name, and a name that is given', async () => {
  await using listener = await listen(ids.server)
  for (const serverName of ['127.0.0.1', 'localhost']) {
    const connection = await dial(listener, ids.client, { serverName })
    connection.close()
  }
  const byName = await dial(listener, ids.client, { address: { host: 'localhost', port: listener.address.port } })
  byName.close()
  const wrong: readonly [string, RegExp][] = [
    ['db.example.com', /hostname mismatch/i],
    ['127.0.0.2', /IP address mismatch/i],
  ]
  for (const [serverName, message] of wrong) {
    await assert.rejects(dial(listener, ids.client, { serverName }), { code: 'UNAUTHENTICATED', message })
  }
})

test('another protocol is refused', async () => {
  const { listener, came } = await listenWatched(ids.server)
  await assert.rejects(dial(listener, ids.client, { alpn: 'other/1' }), { code: 'UNAUTHENTICATED', message: /does not speak other\/1/ })
  assert.deepEqual(came, [])
  await listener.close()
})

test('a chain with an intermediate is sent whole', async () => {
  const chained = { ...ids.server, cert: `${ids.server.cert}\n${ids.authority.cert}` }
  await using listener = await listen(chained)
  const connection = await dial(listener, ids.client)
  connection.close()
})

test('credentials that can not work are named before anything is opened', async () => {
  const bad: readonly [Partial<Credentials>, RegExp][] = [
    [{ cert: 'nonsense' }, /holds no PEM certificate/],
    [{ ca: '' }, /authority holds no PEM certificate/],
    [{ key: 'nonsense' }, /private key can't be read/],
    [{ key: ids.client.key }, /does not belong to the certificate/],
    [{ cert: '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----' }, /certificate can't be read/],
    [{ key: encryptedKey }, /private key can't be read/],
  ]
  for (const [change, message] of bad) {
    const options = { address: { host: '127.0.0.1', port: 0 }, alpn: ALPN, credentials: { ...ids.server, ...change } }
    await assert.rejects(quic.listen({ ...options, limits }), { code: 'BAD_CERTIFICATE', message })
    const dialing = quic.dial({ ...options, idleTimeoutMs: 1000, signal: AbortSignal.timeout(5000) })
    await assert.rejects(dialing, { code: 'BAD_CERTIFICATE', message })
  }
})

/** PKCS #8 under a password, which nobody must be asked for on a terminal. */
const encryptedKey = `-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAiCkGCSqGSIbwICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEAAAAAAAAAAAAAAAAAAAAAAEgZAA
AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
-----END ENCRYPTED PRIVATE KEY-----`

test('nobody there: refused at once, unresolvable and silent by name of what failed', async () => {
  const silent = createSocket('udp4')
  silent.bind(0, '127.0.0.1')
  await once(silent, 'listening')
  const { port } = silent.address()
  const options = { alpn: ALPN, credentials: ids.client, idleTimeoutMs: 30_000 }

  const stop = new AbortController()
  const waiting = quic.dial({ ...options, address: { host: '127.0.0.1', port }, signal: stop.signal })
  setTimeout(() => stop.abort(new Error('stopped by the test')), 100)
  await assert.rejects(waiting, /stopped by the test/)
  const stopped = AbortSignal.abort(new Error('before'))
  await assert.rejects(quic.dial({ ...options, address: { host: '127.0.0.1', port }, signal: stopped }), /before/)

  await new Promise<void>((resolve) => {
    silent.close(() => resolve())
  })
  const start = performance.now()
  const signal = AbortSignal.timeout(9000)
  await assert.rejects(quic.dial({ ...options, address: { host: '127.0.0.1', port }, signal }), { code: 'UNREACHABLE' })
  assert.ok(performance.now() - start < 3000)
  await assert.rejects(quic.dial({ ...options, address: { host: 'no-such-host.invalid', port }, signal }), {
    code: 'UNREACHABLE',
    message: /can't be resolved/,
  })
})

test('a handshake that does not go on is dropped after its time', async () => {
  await using listener = await listen(ids.server, { handshakeTimeoutMs: 300, maxConnections: 1 })
  // A client that falls silent as soon as the server has answered its ClientHello.
  const relay = createSocket('udp4')
  const upstream = createSocket('udp4')
  relay.bind(0, '127.0.0.1')
  upstream.bind(0, '127.0.0.1')
  await Promise.all([once(relay, 'listening'), once(upstream, 'listening')])
  let client = 0
  const isSilent = Promise.withResolvers<void>()
  let silent = false
  relay.on('message', (bytes, { port }) => {
    client = port
    if (!silent) upstream.send(bytes, listener.address.port, '127.0.0.1')
  })
  upstream.on('message', (bytes) => {
    // Retry and acknowledgements are short; certificates are not.
    if (bytes.length >= 1000) {
      silent = true
      isSilent.resolve()
    } else relay.send(bytes, client, '127.0.0.1')
  })
  const stop = new AbortController()
  const stuck = dial(listener, ids.client, { address: { host: '127.0.0.1', port: relay.address().port }, signal: stop.signal })
  stuck.catch(() => {})
  await isSilent.promise
  // While it hangs it has the only place; afterwards there is room again.
  await assert.rejects(dial(listener, ids.client), { code: 'UNREACHABLE', message: /no more connections/ })
  const deadline = performance.now() + 5000
  for (;;) {
    try {
      const connection = await dial(listener, ids.client)
      connection.close()
      break
    } catch (error) {
      assert.ok(performance.now() < deadline, String(error))
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
  stop.abort()
  await assert.rejects(stuck)
  relay.close()
  upstream.close()
})

import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { type AddressInfo } from 'node:net'
import { test } from 'node:test'
import { connect, createServer, type TLSSocket } from 'node:tls'
import { makeCertificate } from '../../src/manage/certificate.ts'

const DAY = 86_400_000
const dates = { notBefore: new Date(Date.now() - DAY), notAfter: new Date(Date.now() + DAY) }
const makeAll = async () => {
  const ca = await makeCertificate({ kind: 'authority', commonName: 'an authority', ...dates })
  const issuer = { key: ca.key, commonName: 'an authority' }
  const names = ['localhost', 'box.example', '127.0.0.1', '::1', '2001:db8::7']
  const server = await makeCertificate({ kind: 'server', commonName: 'localhost', names, ...dates }, issuer)
  const client = await makeCertificate({ kind: 'client', commonName: 'client', ...dates }, issuer)
  return { ca, server, client }
}

test('certificates chain, carry their names and are for their use', async () => {
  const { ca, server, client } = await makeAll()
  const [authority, serverSide, clientSide] = [ca, server, client].map(({ certificate }) => new X509Certificate(certificate))
  assert.equal(authority.ca, true)
  assert.ok(authority.verify(authority.publicKey))
  for (const leaf of [serverSide, clientSide]) {
    assert.equal(leaf.ca, false)
    assert.ok(leaf.checkIssued(authority) && leaf.verify(authority.publicKey))
  }
  assert.equal(serverSide.checkIP('2001:db8::7'), '2001:db8::7')
  assert.equal(serverSide.checkIP('127.0.0.1'), '127.0.0.1')
  assert.equal(serverSide.checkHost('box.example'), 'box.example')
  assert.equal(serverSide.checkHost('other.example'), undefined)
  assert.deepEqual(serverSide.keyUsage, ['1.3.6.1.5.5.7.3.1'])
  assert.deepEqual(clientSide.keyUsage, ['1.3.6.1.5.5.7.3.2'])
  assert.equal(Math.trunc(Date.parse(serverSide.validTo) / 1000), Math.trunc(dates.notAfter.getTime() / 1000))
})

test('OpenSSL accepts both sides in a mutual handshake, and refuses a client of another authority', async () => {
  const { ca, server, client } = await makeAll()
  const stranger = (await makeAll()).client
  await using listener = createServer({ ca: ca.certificate, cert: server.certificate, key: server.key, requestCert: true, rejectUnauthorized: true })
  listener.on('secureConnection', (socket) => socket.end('hello'))
  let refused = 0
  listener.on('tlsClientError', () => refused++)
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const { port } = listener.address() as AddressInfo
  const hear = async (pair: { certificate: string; key: string }): Promise<string> => {
    const socket: TLSSocket = connect({ host: '127.0.0.1', port, ca: ca.certificate, cert: pair.certificate, key: pair.key })
    let text = ''
    for await (const chunk of socket) text += String(chunk)
    return text
  }
  assert.equal(await hear(client), 'hello')
  // In TLS 1.3 the client is done before the server has looked at its certificate, so it may see no more than an end.
  assert.equal(await hear(stranger).catch(() => ''), '')
  assert.equal(refused, 1)
})

import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { type AddressInfo } from 'node:net'
import { test } from 'node:test'
import { connect, createServer, type TLSSocket } from 'node:tls'
import fc from 'fast-check'
import { addressBytes, makeCertificate } from '../../src/manage/certificate.ts'
import * as der from '../../src/manage/der.ts'

const DAY = 86_400_000
const dates = { notBefore: new Date(Date.now() - DAY), notAfter: new Date(Date.now() + DAY) }
const makeAll = () => {
  const ca = makeCertificate({ kind: 'authority', commonName: 'an authority', ...dates })
  const issuer = { key: ca.key, commonName: 'an authority' }
  const names = ['localhost', 'box.example', '127.0.0.1', '::1', '2001:db8::7']
  const server = makeCertificate({ kind: 'server', commonName: 'localhost', names, ...dates }, issuer)
  const client = makeCertificate({ kind: 'client', commonName: 'client', ...dates }, issuer)
  return { ca, server, client }
}

test('certificates chain, carry their names and are for their use', () => {
  const { ca, server, client } = makeAll()
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
  const { ca, server, client } = makeAll()
  const stranger = makeAll().client
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

test('addresses become bytes', () => {
  const hex = (address: string): string => Buffer.from(addressBytes(address)).toString('hex')
  assert.equal(hex('10.0.0.255'), '0a0000ff')
  assert.equal(hex('::'), '0'.repeat(32))
  assert.equal(hex('::1'), '1'.padStart(32, '0'))
  assert.equal(hex('2001:db8::7'), '20010db8000000000000000000000007')
  assert.equal(hex('1::'), '0001' + '0'.repeat(28))
  assert.equal(hex('1:2:3:4:5:6:7:8'), '00010002000300040005000600070008')
  assert.equal(hex('::ffff:1.2.3.4'), '00000000000000000000ffff01020304')
})

test('DER lengths and integers are minimal', () => {
  const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
  assert.equal(hex(der.integer(Buffer.from([0, 0, 5]))), '020105')
  assert.equal(hex(der.integer(Buffer.from([0x80]))), '02020080')
  assert.equal(hex(der.integer(Buffer.from([0]))), '020100')
  assert.equal(hex(der.objectIdentifier('1.2.840.10045.4.3.2')), '06082a8648ce3d040302')
  assert.equal(hex(der.time(new Date('2049-12-31T23:59:59Z'))), hex(Buffer.from('\x17\x0d491231235959Z', 'latin1')))
  assert.equal(hex(der.time(new Date('2050-01-01T00:00:00Z'))), hex(Buffer.from('\x18\x0f20500101000000Z', 'latin1')))
  fc.assert(
    fc.property(fc.nat(70_000), (size) => {
      const value = der.octetString(new Uint8Array(size))
      const prefix = size < 0x80 ? 2 : size <= 0xff ? 3 : size <= 0xffff ? 4 : 5
      assert.equal(value.length, size + prefix)
    }),
    { numRuns: 50 },
  )
})

import assert from 'node:assert/strict'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { test } from 'node:test'
import { holdsUdpPort, inodesOfPort } from '../../src/manage/listening.ts'

test('inodes of a port are read from the kernel’s table', () => {
  const table = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  123: 0100007F:24E3 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 0
  124: 00000000:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 0
`
  assert.deepEqual(inodesOfPort(table, 9443), ['4711'])
  assert.deepEqual(inodesOfPort(table, 5353), ['4712'])
  assert.deepEqual(inodesOfPort(table, 24), [])
  assert.deepEqual(inodesOfPort('', 24), [])
})

for (const [type, address] of [['udp4', '127.0.0.1'], ['udp6', '::1']] as const) {
  test(`a process holds the ${type} port that it has bound, as long as it does`, async () => {
    const socket = createSocket(type)
    socket.bind(0, address)
    await once(socket, 'listening')
    const { port } = socket.address()
    assert.equal(holdsUdpPort(process.pid, port), true)
    assert.equal(holdsUdpPort(process.ppid, port), false)
    socket.close()
    await once(socket, 'close')
    assert.equal(holdsUdpPort(process.pid, port), false)
  })
}

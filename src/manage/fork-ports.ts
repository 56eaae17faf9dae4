/** Ports for a fork: free now, recorded for no other fork, and below those that the kernel gives to outgoing connections. */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { BeyondError } from '../errors.ts'
import type { ForkPorts } from './fork-place.ts'

const FIRST = 20_000
const COUNT = 10_000

/** `taken`: by forks that may not run now. `chance`: from 0 to 1, so that two who look at the same moment find different ones. */
export async function findForkPorts(taken: ReadonlySet<number>, chance: number): Promise<ForkPorts> {
  const found: number[] = []
  for (let step = 0; step < COUNT && found.length < 3; step++) {
    const port = FIRST + ((Math.floor(chance * COUNT) + step) % COUNT)
    if (!taken.has(port) && (await isFree(port, found.length === 2 ? 'udp' : 'tcp'))) found.push(port)
  }
  const [pooler, postgres, quic] = found
  if (quic === undefined) throw new BeyondError('PORT_IN_USE', `No three ports from ${FIRST} to ${FIRST + COUNT - 1} are free: remove forks that are no longer needed.`)
  return { pooler, postgres, quic }
}

export async function areFree({ pooler, postgres, quic }: ForkPorts): Promise<boolean> {
  return (await isFree(pooler, 'tcp')) && (await isFree(postgres, 'tcp')) && (await isFree(quic, 'udp'))
}

async function isFree(port: number, protocol: 'tcp' | 'udp'): Promise<boolean> {
  const place = { host: '127.0.0.1', address: '127.0.0.1', port, exclusive: true }
  try {
    if (protocol === 'tcp') {
      const server = createServer().listen(place)
      await once(server, 'listening')
      server.close()
      await once(server, 'close')
    } else {
      const socket = createSocket('udp4')
      socket.bind(place)
      await once(socket, 'listening')
      socket.close()
      await once(socket, 'close')
    }
    return true
  } catch {
    return false
  }
}

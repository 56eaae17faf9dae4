/** Whether the ports of a box are free, asked before anything is started. */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer, isIP } from 'node:net'
import { BeyondError } from '../errors.ts'
import type { BoxConfig } from './box-config.ts'

type PortUse = { readonly what: string; readonly protocol: 'tcp' | 'udp'; readonly address: string; readonly port: number; readonly flag: string }

/**
 * Throws PORT_IN_USE, NO_PERMISSION or BAD_ARGUMENT for the first port that can't be had. `running`: children that run already and
 * have their ports; should one of them be started again on another port, it says itself when it can't have that.
 */
export async function checkPorts(config: BoxConfig, running: readonly string[] = []): Promise<void> {
  const uses: (PortUse & { readonly child: string })[] = [
    { child: 'pgbouncer', what: 'PgBouncer', protocol: 'tcp', address: config.listen, port: config.poolerPort, flag: '--port' },
    { child: 'postgres', what: 'Postgres', protocol: 'tcp', address: '127.0.0.1', port: config.postgresPort, flag: '--postgres-port' },
  ]
  if (config.cdc) uses.push({ child: 'cdc', what: 'QUIC', protocol: 'udp', address: config.listen, port: config.cdc.quicPort, flag: '--quic-port' })
  for (const use of uses) if (!running.some((name) => name === use.child || name.startsWith(`${use.child}-`))) await checkPort(use)
}

async function checkPort(use: PortUse): Promise<void> {
  try {
    await (use.protocol === 'tcp' ? bindTcp(use) : bindUdp(use))
  } catch (error) {
    throw refusal(use, error as NodeJS.ErrnoException)
  }
}

async function bindTcp({ address, port }: PortUse): Promise<void> {
  const server = createServer()
  server.listen({ host: address, port, exclusive: true })
  await once(server, 'listening') // rejects with what the kernel says
  server.close()
  await once(server, 'close')
}

async function bindUdp({ address, port }: PortUse): Promise<void> {
  const socket = createSocket(isIP(address) === 6 ? 'udp6' : 'udp4')
  socket.bind({ address, port, exclusive: true })
  await once(socket, 'listening')
  socket.close()
  await once(socket, 'close')
}

function refusal(use: PortUse, error: NodeJS.ErrnoException): BeyondError {
  const options = { cause: error, facts: { port: use.port } }
  const name = use.protocol === 'udp' ? `UDP port ${use.port}` : `Port ${use.port}`
  switch (error.code) {
    case 'EADDRINUSE':
      return new BeyondError(
        'PORT_IN_USE',
        `${name} of ${use.address}, meant for ${use.what}, belongs to another program: stop that one, or choose another port with ${use.flag}.`,
        options,
      )
    case 'EACCES':
    case 'EPERM':
      return new BeyondError('NO_PERMISSION', `This account may not listen on port ${use.port}: choose another port with ${use.flag}.`, options)
    case 'EADDRNOTAVAIL':
    case 'EAFNOSUPPORT':
      return new BeyondError('BAD_ARGUMENT', `${use.address} is not an address of this machine: choose another one with --listen.`, options)
    default:
      return new BeyondError('INTERNAL', `Can't listen on port ${use.port}: ${error.message}`, options)
  }
}

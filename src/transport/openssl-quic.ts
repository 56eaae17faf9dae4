/**
 * QUIC by the OpenSSL 3.5 that Node links: the implementation of `quic.ts`. Native code is loaded at the first use.
 *
 * Memory. An idle connection takes about 80 KiB in a listener. To send: at most MAX_UNACKNOWLEDGED_BYTES for each stream. Received and not
 * read: what OpenSSL's flow control allows, 512 KiB of a stream and 768 KiB of a connection, windows that grow with the speed of
 * reading to 6 and 15 MiB; a peer with a valid certificate that sends byte by byte makes OpenSSL keep a packet for each.
 *
 * Not served: unidirectional streams, datagrams, connection migration, session resumption and early data.
 */
import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import { BeyondError } from '../errors.ts'
import type { Quic } from './quic.ts'

export const quic: Quic = {
  async listen(options) {
    const { host } = options.address
    const address = isIP(host) === 0 ? { ...options.address, host: await localAddressOf(host) } : options.address
    const { listenAt } = await import('./openssl-listener.ts')
    return listenAt({ ...options, address })
  },

  async dial(options) {
    const { dialServer } = await import('./openssl-dialer.ts')
    return dialServer(options)
  },
}

export function opensslQuic(): Quic {
  return quic
}

async function localAddressOf(host: string): Promise<string> {
  try {
    return (await lookup(host)).address
  } catch (error) {
    throw new BeyondError('BAD_ARGUMENT', `The name ${host} to listen on can't be resolved.`, { cause: error, facts: { host } })
  }
}

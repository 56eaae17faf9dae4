/**
 * QUIC by the OpenSSL 3.5 that Node links: the implementation of `quic.ts`. Native code is loaded at the first use.
 *
 * What it holds per connection and stream is bounded: at most MAX_UNACKNOWLEDGED_BYTES to send for each stream, and what arrives by
 * OpenSSL's flow control (512 KiB for a stream, 768 KiB for a connection that is not read from; windows grow with the
 * speed of reading to 6 and 15 MiB).
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

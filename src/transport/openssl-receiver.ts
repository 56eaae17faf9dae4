/**
 * Reads datagrams for a listener and hands each to the engine of its sender.
 *
 * Reading them here instead of in OpenSSL does two things that OpenSSL 3.5 can't: it tells from where a new connection comes
 * (SSL_get_peer_addr is younger), and it lets a listener have many engines on one socket (SSL_handle_events looks at every
 * connection of its engine, at 1 to 2 µs each, whatever the datagram was for).
 */
import * as ffi from './openssl-ffi.ts'
import { formatIP } from './openssl-socket.ts'
import type { QuicAddress } from './quic.ts'

const BATCH = 64
/** Nobody sends longer ones to us: OpenSSL sends 1200 bytes, and a path of more than 1500 is rare. A longer one is cut and then dropped. */
const DATAGRAM_BYTES = 2048
/** struct mmsghdr on 64-bit Linux: name, its length, iovec, its length, control, its length, flags; then the bytes received. */
const HEADER_BYTES = 64
/** sockaddr_in6, the longer one. Family (u16), port (u16 big-endian), IPv4 address at 4 or IPv6 address at 8. */
const SOCKADDR_BYTES = 28

type Sender = { readonly address: ffi.Pointer; readonly sockaddr: Buffer }

export class Receiver {
  readonly #fd: number
  readonly #data = Buffer.alloc(BATCH * DATAGRAM_BYTES)
  readonly #dataAt = Number(ffi.addressOf(this.#data))
  readonly #vectors = Buffer.alloc(BATCH * 16)
  readonly #headers = new Uint32Array((BATCH * HEADER_BYTES) / 4)
  readonly #senders: Sender[] = []
  #current: Sender | undefined

  constructor(fd: number) {
    this.#fd = fd
    const vectorsAt = ffi.addressOf(this.#vectors)
    const headers = Buffer.from(this.#headers.buffer)
    for (let index = 0; index < BATCH; index++) {
      const address = ffi.BIO_ADDR_new()
      const inner = ffi.BIO_ADDR_sockaddr_noconst(address)
      this.#senders.push({ address, sockaddr: ffi.viewOf(inner, SOCKADDR_BYTES) })
      this.#vectors.writeBigUInt64LE(BigInt(this.#dataAt + index * DATAGRAM_BYTES), index * 16)
      this.#vectors.writeBigUInt64LE(BigInt(DATAGRAM_BYTES), index * 16 + 8)
      headers.writeBigUInt64LE(BigInt(inner), index * HEADER_BYTES)
      headers.writeBigUInt64LE(vectorsAt + BigInt(index * 16), index * HEADER_BYTES + 16)
      headers.writeBigUInt64LE(1n, index * HEADER_BYTES + 24)
    }
  }

  /**
   * Moves what has arrived, up to a batch, into OpenSSL, where the next SSL_handle_events deals with it. `route` answers the listener for
   * a sender, by the hash of its address and port. Returns true if there may be more.
   */
  receive(route: (hash: number) => ffi.Pointer): boolean {
    // The kernel writes the length of each address; it must not limit the next one.
    for (let index = 0; index < BATCH; index++) this.#headers[(index * HEADER_BYTES) / 4 + 2] = SOCKADDR_BYTES
    const count = ffi.c.recvmmsg(this.#fd, this.#headers as unknown as Uint8Array, BATCH, ffi.MSG_DONTWAIT, 0)
    for (let index = 0; index < count; index++) {
      const sender = this.#senders[index]!
      const length = this.#headers[(index * HEADER_BYTES) / 4 + 14]!
      this.#current = sender
      const listener = route(hashOf(sender.sockaddr))
      if (listener !== 0) ffi.SSL_inject_net_dgram(listener, this.#dataAt + index * DATAGRAM_BYTES, length, sender.address, 0)
    }
    this.#current = undefined
    return count === BATCH
  }

  /** Sender of the datagram that OpenSSL is looking at. */
  currentPeer(): QuicAddress {
    if (this.#current === undefined) return { host: '', port: 0 }
    const { sockaddr } = this.#current
    return { host: formatIP(isV6(sockaddr) ? sockaddr.subarray(8, 24) : sockaddr.subarray(4, 8)), port: sockaddr.readUInt16BE(2) }
  }

  free(): void {
    for (const { address } of this.#senders.splice(0)) ffi.BIO_ADDR_free(address)
  }
}

function isV6(sockaddr: Buffer): boolean {
  return sockaddr.readUInt16LE(0) === ffi.AF_INET6
}

/** FNV-1a. */
function hashOf(sockaddr: Buffer): number {
  const end = isV6(sockaddr) ? 24 : 8
  let hash = 0x811c9dc5
  for (let at = 2; at < end; at++) hash = Math.imul(hash ^ sockaddr[at]!, 0x01000193)
  return (hash ^ (hash >>> 15)) >>> 0
}

/**
 * Reads datagrams for a listener and hands them to OpenSSL one by one, so that it is known from where a new connection comes:
 * OpenSSL 3.5 has no call that tells the address of an accepted peer (SSL_get_peer_addr is younger).
 *
 * It also lets one turn take more datagrams than the 32 that SSL_handle_events reads, each of which looks at every connection.
 */
import * as ffi from './openssl-ffi.ts'
import type { Pointer } from './openssl-ffi.ts'
import { formatIP } from './openssl-socket.ts'
import type { QuicAddress } from './quic.ts'

const BATCH = 64
/** Nobody sends longer ones to us: OpenSSL sends 1200 bytes, and a path of more than 1500 is rare. A longer one is cut and then dropped. */
const DATAGRAM_BYTES = 2048
/** struct mmsghdr on 64-bit Linux: name, its length, iovec, its length, control, its length, flags; then the bytes received. */
const HEADER_BYTES = 64
const SOCKADDR_BYTES = 28

export class Receiver {
  readonly #fd: number
  readonly #data = Buffer.alloc(BATCH * DATAGRAM_BYTES)
  readonly #dataAt = Number(ffi.addressOf(this.#data))
  readonly #vectors = Buffer.alloc(BATCH * 16)
  readonly #headers = new Uint32Array((BATCH * HEADER_BYTES) / 4)
  readonly #addresses: Pointer[] = []
  #current: Pointer = 0

  constructor(fd: number) {
    this.#fd = fd
    const vectorsAt = ffi.addressOf(this.#vectors)
    const headers = Buffer.from(this.#headers.buffer)
    for (let index = 0; index < BATCH; index++) {
      const address = ffi.BIO_ADDR_new()
      this.#addresses.push(address)
      this.#vectors.writeBigUInt64LE(BigInt(this.#dataAt + index * DATAGRAM_BYTES), index * 16)
      this.#vectors.writeBigUInt64LE(BigInt(DATAGRAM_BYTES), index * 16 + 8)
      headers.writeBigUInt64LE(BigInt(ffi.BIO_ADDR_sockaddr_noconst(address)), index * HEADER_BYTES)
      headers.writeBigUInt64LE(vectorsAt + BigInt(index * 16), index * HEADER_BYTES + 16)
      headers.writeBigUInt64LE(1n, index * HEADER_BYTES + 24)
    }
  }

  /** Moves what has arrived, up to a batch, into OpenSSL; it is dealt with in the next SSL_handle_events. */
  receive(listener: Pointer): void {
    // The kernel writes the length of each address; it must not limit the next one.
    for (let index = 0; index < BATCH; index++) this.#headers[(index * HEADER_BYTES) / 4 + 2] = SOCKADDR_BYTES
    const count = ffi.c.recvmmsg(this.#fd, this.#headers as unknown as Uint8Array, BATCH, ffi.MSG_DONTWAIT, 0)
    for (let index = 0; index < count; index++) {
      this.#current = this.#addresses[index]!
      const length = this.#headers[(index * HEADER_BYTES) / 4 + 14]!
      ffi.SSL_inject_net_dgram(listener, this.#dataAt + index * DATAGRAM_BYTES, length, this.#current, 0)
    }
    this.#current = 0
  }

  /** Sender of the datagram that OpenSSL is looking at. */
  currentPeer(): QuicAddress {
    if (this.#current === 0) return { host: '', port: 0 }
    const port = ffi.BIO_ADDR_rawport(this.#current)
    if (ffi.BIO_ADDR_rawaddress(this.#current, addressBytes, addressLength as unknown as Uint8Array) !== 1) return { host: '', port: 0 }
    return { host: formatIP(addressBytes.subarray(0, Number(addressLength[0]))), port: ((port & 0xff) << 8) | (port >> 8) }
  }

  free(): void {
    for (const address of this.#addresses.splice(0)) ffi.BIO_ADDR_free(address)
  }
}

const addressBytes = Buffer.alloc(32)
const addressLength = new BigUint64Array(1)

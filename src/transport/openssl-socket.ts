/** UDP sockets whose file descriptor OpenSSL reads and writes: made, bound or connected, and closed here. */
import { isIPv6 } from 'node:net'
import { getSystemErrorName } from 'node:util'
import { BeyondError } from '../errors.ts'
import * as ffi from './openssl-ffi.ts'
import type { QuicAddress } from './quic.ts'

/**
 * What a burst may hold while our event loop does other things. The kernel gives at most net.core.rmem_max and wmem_max
 * to a process without CAP_NET_ADMIN.
 */
const SOCKET_BUFFER_BYTES = 8 * 1024 * 1024

export type UdpSocket = { readonly fd: number; readonly local: QuicAddress; close(): void }

/** `address.host` is an IP address in both. Rejections: PORT_IN_USE, NO_PERMISSION, BAD_ARGUMENT, INTERNAL. */
export function bindUdp(address: QuicAddress): UdpSocket {
  return open(address, (fd, bytes) => {
    if (ffi.c.bind(fd, bytes, bytes.length) === 0) return
    const name = getSystemErrorName(-ffi.errno())
    const where = `${address.host} port ${address.port} (UDP)`
    const facts = { host: address.host, port: address.port }
    if (name === 'EADDRINUSE') {
      throw new BeyondError('PORT_IN_USE', `Another process listens on ${where}: stop it or choose another port.`, { facts })
    }
    if (name === 'EACCES') throw new BeyondError('NO_PERMISSION', `This account may not listen on ${where}.`, { facts })
    if (name === 'EADDRNOTAVAIL') {
      throw new BeyondError('BAD_ARGUMENT', `This machine has no address ${address.host} to listen on.`, { facts })
    }
    throw new BeyondError('INTERNAL', `Can't listen on ${where}: ${name}.`, { facts })
  })
}

/** Connected, so that "port unreachable" of the other side is reported at once. Rejects with UNREACHABLE. */
export function connectUdp(address: QuicAddress): UdpSocket {
  return open(address, (fd, bytes) => {
    if (ffi.c.connect(fd, bytes, bytes.length) === 0) return
    const name = getSystemErrorName(-ffi.errno())
    throw new BeyondError('UNREACHABLE', `No route to ${address.host} port ${address.port}: ${name}.`, {
      facts: { host: address.host, port: address.port },
    })
  })
}

function open(address: QuicAddress, attach: (fd: number, bytes: Buffer) => void): UdpSocket {
  const bytes = encodeAddress(address)
  const family = isIPv6(address.host) ? ffi.AF_INET6 : ffi.AF_INET
  const fd = ffi.c.socket(family, ffi.SOCK_DGRAM | ffi.SOCK_NONBLOCK | ffi.SOCK_CLOEXEC, 0)
  if (fd < 0) throw new BeyondError('INTERNAL', `Can't open a UDP socket: ${getSystemErrorName(-ffi.errno())}.`)
  try {
    growBuffer(fd, ffi.SO_RCVBUFFORCE, ffi.SO_RCVBUF)
    growBuffer(fd, ffi.SO_SNDBUFFORCE, ffi.SO_SNDBUF)
    attach(fd, bytes)
    let isOpen = true
    return {
      fd,
      local: localAddress(fd),
      close() {
        if (isOpen) ffi.c.close(fd)
        isOpen = false
      },
    }
  } catch (error) {
    ffi.c.close(fd)
    throw error
  }
}

function growBuffer(fd: number, force: number, polite: number): void {
  const size = Buffer.alloc(8)
  size.writeInt32LE(SOCKET_BUFFER_BYTES)
  if (ffi.c.setsockopt(fd, ffi.SOL_SOCKET, force, size, 4) !== 0) ffi.c.setsockopt(fd, ffi.SOL_SOCKET, polite, size, 4)
}

/** struct sockaddr_in or sockaddr_in6 of Linux; an IPv6 zone is not supported. */
function encodeAddress({ host, port }: QuicAddress): Buffer {
  if (isIPv6(host)) {
    const bytes = Buffer.alloc(28)
    bytes.writeUInt16LE(ffi.AF_INET6, 0)
    bytes.writeUInt16BE(port, 2)
    parseIPv6(host).copy(bytes, 8)
    return bytes
  }
  const bytes = Buffer.alloc(16)
  bytes.writeUInt16LE(ffi.AF_INET, 0)
  bytes.writeUInt16BE(port, 2)
  host.split('.').forEach((part, index) => bytes.writeUInt8(Number(part), 4 + index))
  return bytes
}

function parseIPv6(host: string): Buffer {
  const bytes = Buffer.alloc(16)
  // The URL parser knows every way to write an address, and writes it in one: lower-case hexadecimal groups.
  const [head = '', tail] = new URL(`http://[${host}]`).hostname.slice(1, -1).split('::')
  const groups = (text: string): number[] => (text === '' ? [] : text.split(':').map((group) => Number.parseInt(group, 16)))
  groups(head).forEach((group, index) => bytes.writeUInt16BE(group, index * 2))
  const last = groups(tail ?? '')
  last.forEach((group, index) => bytes.writeUInt16BE(group, (8 - last.length + index) * 2))
  return bytes
}

function localAddress(fd: number): QuicAddress {
  const bytes = Buffer.alloc(32)
  const length = Buffer.alloc(8)
  length.writeUInt32LE(bytes.length)
  if (ffi.c.getsockname(fd, bytes, length) !== 0) {
    throw new BeyondError('INTERNAL', `A UDP socket tells no address: ${getSystemErrorName(-ffi.errno())}.`)
  }
  const port = bytes.readUInt16BE(2)
  const isV6 = bytes.readUInt16LE(0) === ffi.AF_INET6
  return { host: isV6 ? formatIP(bytes.subarray(8, 24)) : formatIP(bytes.subarray(4, 8)), port }
}

/** 4 or 16 bytes. IPv4 addresses that a dual-stack socket shows as IPv6 (::ffff:a.b.c.d) come out as IPv4. */
export function formatIP(bytes: Buffer): string {
  if (bytes.length === 4) return bytes.join('.')
  const isMapped = bytes.subarray(0, 10).every((byte) => byte === 0) && bytes.readUInt16BE(10) === 0xffff
  if (isMapped) return bytes.subarray(12).join('.')
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(index * 2).toString(16))
  return new URL(`http://[${groups.join(':')}]`).hostname.slice(1, -1)
}

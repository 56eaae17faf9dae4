/**
 * Who is at the other end of a Unix socket, as the kernel says: SO_PEERCRED, unix(7).
 * Node doesn't tell, so the C library's getsockopt is asked on the socket's descriptor.
 */
import type { Socket } from 'node:net'
import koffi from 'koffi'

export type Peer = { readonly pid: number; readonly uid: number; readonly gid: number }

// asm-generic/socket.h: the same on x86-64 and arm64.
const SOL_SOCKET = 1
const SO_PEERCRED = 17
/** struct ucred: pid, uid, gid, 32 bits each. */
const UCRED_BYTES = 12

const getsockopt = koffi.load(null).func('getsockopt', 'int', ['int', 'int', 'int', 'void *', 'void *']) as unknown as (
  fd: number,
  level: number,
  option: number,
  value: Uint8Array,
  length: Uint32Array,
) => number

/** Undefined when the kernel does not say, which is a reason to refuse. */
export function peerOf(socket: Socket): Peer | undefined {
  const { fd } = (socket as unknown as { _handle?: { fd?: number } })._handle ?? {}
  if (fd === undefined || fd < 0) return undefined
  const value = Buffer.alloc(UCRED_BYTES)
  const length = new Uint32Array([UCRED_BYTES])
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, value, length) !== 0 || length[0] !== UCRED_BYTES) return undefined
  const [pid, uid, gid] = new Uint32Array(value.buffer, value.byteOffset, 3)
  return { pid, uid, gid }
}

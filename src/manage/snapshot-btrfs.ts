/**
 * Subvolumes of btrfs: a snapshot of one is a whole tree at one moment, however large, and shares every block until either side writes.
 * Needs no program and, for a subvolume of one's own, no privilege.
 * Source: btrfs-ioctl(2), include/uapi/linux/btrfs.h
 */
import { closeSync, constants, lstatSync, openSync, rmSync, statfsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { constants as systemConstants } from 'node:os'
import { basename, dirname } from 'node:path'

const BTRFS_SUPER_MAGIC = 0x9123683e
/** The root of every subvolume has this number (BTRFS_FIRST_FREE_OBJECTID). */
const SUBVOLUME_INODE = 256
/** _IOW(0x94, 23, struct btrfs_ioctl_vol_args_v2) and _IOW(0x94, 15, struct btrfs_ioctl_vol_args), both of 4096 bytes. */
const SNAP_CREATE_V2 = 0x50009417
const SNAP_DESTROY = 0x5000940f
const ARGUMENT_BYTES = 4096
/** Of the name in either structure. */
const NAME_AT_V2 = 56
const NAME_AT = 8

export function isSubvolume(path: string): boolean {
  const stats = lstatSync(path, { throwIfNoEntry: false })
  return stats !== undefined && stats.isDirectory() && stats.ino === SUBVOLUME_INODE && statfsSync(path).type === BTRFS_SUPER_MAGIC
}

/** Writable. On disk when this returns. Throws an error with a code of the system, EXDEV for another file system. */
export function snapshotSubvolume(source: string, destination: string): void {
  using tree = openDirectory(source)
  const argument = Buffer.alloc(ARGUMENT_BYTES)
  argument.writeBigInt64LE(BigInt(tree.fd), 0)
  inFolderOf(destination, SNAP_CREATE_V2, argument, NAME_AT_V2)
}

/** Also where the kernel leaves that to root: then file by file. */
export function removeSubvolume(path: string): void {
  try {
    inFolderOf(path, SNAP_DESTROY, Buffer.alloc(ARGUMENT_BYTES), NAME_AT)
  } catch {
    rmSync(path, { recursive: true, force: true })
  }
}

function inFolderOf(path: string, request: number, argument: Buffer, nameAt: number): void {
  using folder = openDirectory(dirname(path))
  argument.write(basename(path), nameAt, 'utf8')
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi')
  const ioctl = koffi.load(null).func('int ioctl(int fd, unsigned long request, ...)') as (fd: number, request: number, type: string, argument: Buffer) => number
  if (ioctl(folder.fd, request, 'void *', argument) >= 0) return
  const number = koffi.errno()
  const code = Object.entries(systemConstants.errno).find(([, value]) => value === number)?.[0] ?? `errno ${number}`
  throw Object.assign(new Error(`${code}: the ioctl on ${path}`), { code, path })
}

function openDirectory(path: string): Disposable & { readonly fd: number } {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW)
  return { fd, [Symbol.dispose]: () => closeSync(fd) }
}

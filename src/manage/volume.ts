/**
 * The volume below a folder: which file system, on which device, and how large both are. When the device has grown, the file system
 * grows after it, mounted and in use. A partition is not grown: that is for whoever made one.
 * Source: https://docs.kernel.org/filesystems/proc.html (mountinfo), resize2fs(8), xfs_growfs(8), btrfs-filesystem(8)
 */
import { closeSync, existsSync, openSync, readFileSync, readSync, realpathSync, statfsSync } from 'node:fs'
import { basename, join } from 'node:path'
import { BeyondError } from '../errors.ts'
import { runOnce } from './run-once.ts'

export type Mount = { readonly mountPoint: string; readonly fileSystem: string; readonly device: string }

export type Volume = Mount & {
  /** What files may take, and what of that is free. */
  readonly sizeBytes: number
  readonly freeBytes: number
  /** Undefined where the file system lies on no block device, or on one that can't be looked at. */
  readonly deviceBytes: number | undefined
  /** How much of the device the file system spans; undefined where that can't be told without growing it. */
  readonly spanBytes: number | undefined
}

/** What grows each kind; the argument is what it is called with. */
const GROW: Readonly<Record<string, { readonly program: string; readonly args: (mount: Mount) => readonly string[] }>> = {
  ext4: { program: 'resize2fs', args: ({ device }) => [device] },
  xfs: { program: 'xfs_growfs', args: ({ mountPoint }) => ['-d', mountPoint] },
  btrfs: { program: 'btrfs', args: ({ mountPoint }) => ['filesystem', 'resize', 'max', mountPoint] },
}
const TOOL_FOLDERS = ['/usr/sbin', '/sbin', '/usr/bin', '/bin']
const GROW_MS = 600_000
/** Less than this is what file systems leave over at the end of a device. */
const REST_BYTES = 1024 * 1024

export function readVolume(folder: string): Volume {
  const mount = findMount(readFileSync('/proc/self/mountinfo', 'utf8'), realpathSync(folder))
  if (!mount) throw new BeyondError('INTERNAL', `No mount holds ${folder}.`)
  const { blocks, bavail, bsize } = statfsSync(folder)
  const deviceBytes = readDeviceSize(mount.device)
  const spanBytes = deviceBytes === undefined ? undefined : readSpan(mount, blocks * bsize)
  return { ...mount, sizeBytes: blocks * bsize, freeBytes: bavail * bsize, deviceBytes, spanBytes }
}

/** Whether the device is larger than its file system, as far as one can see. */
export function canGrow({ fileSystem, deviceBytes, spanBytes }: Volume): boolean {
  return Object.hasOwn(GROW, fileSystem) && deviceBytes !== undefined && spanBytes !== undefined && deviceBytes - spanBytes > REST_BYTES
}

/** The volume afterwards: the same where there was nothing to grow. Throws when growing fails; the volume is then as it was. */
export async function growVolume(folder: string, signal: AbortSignal): Promise<{ readonly before: Volume; readonly after: Volume }> {
  const before = readVolume(folder)
  if (!canGrow(before)) return { before, after: before }
  const { program: name, args } = GROW[before.fileSystem]
  const program = TOOL_FOLDERS.map((path) => join(path, name)).find((path) => existsSync(path))
  const cannot = (why: string): BeyondError =>
    new BeyondError('NO_PERMISSION', `The ${before.fileSystem} file system on ${before.device} can't be grown: ${why}.`, { facts: { path: before.mountPoint } })
  if (program === undefined) throw cannot(`${name} is not installed`)
  const outcome = await runOnce({ program, args: args(before), environment: { LC_ALL: 'C' }, signal, withinMs: GROW_MS })
  if (outcome.code !== 0) throw cannot(`${name} says: ${outcome.failure ?? outcome.lastLines.at(-1) ?? `exit code ${outcome.code}`}`)
  return { before, after: readVolume(folder) }
}

/** The mount that holds the path: of those whose mount point is an ancestor the deepest, and of these the last. */
export function findMount(mountinfo: string, path: string): Mount | undefined {
  let found: Mount | undefined
  for (const line of mountinfo.split('\n')) {
    const [own, rest] = line.split(' - ')
    const mountPoint = own.split(' ')[4]
    const [fileSystem, device] = rest?.split(' ') ?? []
    if (!mountPoint || !fileSystem || device === undefined) continue
    const mount = { mountPoint: unescapeOctal(mountPoint), fileSystem, device: unescapeOctal(device) }
    const holds = mount.mountPoint === '/' || path === mount.mountPoint || path.startsWith(`${mount.mountPoint}/`)
    if (holds && mount.mountPoint.length >= (found?.mountPoint.length ?? 0)) found = mount
  }
  return found
}

/** Blanks, tabs, newlines and backslashes stand as octal numbers. */
const unescapeOctal = (text: string): string => text.replace(/\\([0-7]{3})/g, (_match, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)))

/** In sysfs always in units of 512 bytes. */
function readDeviceSize(device: string): number | undefined {
  try {
    return Number(readFileSync(`/sys/class/block/${basename(realpathSync(device))}/size`, 'utf8')) * 512
  } catch {
    return undefined
  }
}

const EXT4_MAGIC = 0xef53
const XFS_MAGIC = 'XFSB'

/** From the superblock, where the size that files may take is less than what the file system spans. */
function readSpan({ fileSystem, device }: Mount, sizeBytes: number): number | undefined {
  if (fileSystem === 'btrfs') return sizeBytes
  try {
    const block = Buffer.alloc(4096)
    const fd = openSync(device, 'r')
    try {
      readSync(fd, block, 0, block.length, 0)
    } finally {
      closeSync(fd)
    }
    return parseSuperblock(fileSystem, block, sizeBytes)
  } catch {
    return undefined // only root may look
  }
}

/**
 * What the file system spans, from the first 4096 bytes of its device. XFS keeps the newest superblock to itself, so only its log,
 * which never grows, is taken from there and added to what files may take. Bytes.
 * Source: https://docs.kernel.org/filesystems/ext4/super.html; xfs_dsb in fs/xfs/libxfs/xfs_format.h, xfs_fs_statfs in xfs_super.c
 */
export function parseSuperblock(fileSystem: string, block: Buffer, sizeBytes: number): number | undefined {
  if (fileSystem === 'ext4' && block.readUInt16LE(1024 + 0x38) === EXT4_MAGIC) {
    const is64Bit = (block.readUInt32LE(1024 + 0x60) & 0x80) !== 0
    const blocks = block.readUInt32LE(1024 + 0x4) + (is64Bit ? block.readUInt32LE(1024 + 0x150) * 2 ** 32 : 0)
    return blocks * 2 ** (10 + block.readUInt32LE(1024 + 0x18))
  }
  if (fileSystem === 'xfs' && block.toString('latin1', 0, 4) === XFS_MAGIC) {
    const isInternal = block.readBigUInt64BE(48) !== 0n
    return sizeBytes + (isInternal ? block.readUInt32BE(96) * block.readUInt32BE(4) : 0)
  }
  return undefined
}

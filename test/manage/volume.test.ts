import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { canGrow, findMount, growVolume, parseSuperblock, readVolume } from '../../src/manage/volume.ts'

const MB = 2 ** 20

const mountinfo = [
  '21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw',
  '22 21 0:5 / /proc rw - proc proc rw',
  '40 21 254:0 / /data rw,noatime - xfs /dev/vdb rw,attr2',
  '41 40 0:44 /@pg /data/my\\040box rw - btrfs /dev/mapper/a\\134b rw,subvol=/@pg',
  '42 21 0:50 / /data2 rw - tmpfs tmpfs rw',
].join('\n')

test('the mount that holds a path', () => {
  const device = (path: string): string | undefined => findMount(mountinfo, path)?.device
  assert.equal(device('/'), '/dev/root')
  assert.equal(device('/data'), '/dev/vdb')
  assert.equal(device('/data/pg'), '/dev/vdb')
  assert.equal(device('/data20'), '/dev/root')
  assert.deepEqual(findMount(mountinfo, '/data/my box/postgres'), { mountPoint: '/data/my box', fileSystem: 'btrfs', device: '/dev/mapper/a\\b' })
  assert.equal(device('/data/my boxes'), '/dev/vdb')
  assert.equal(findMount('', '/'), undefined)
})

test('what is on no block device, or of another kind, is not grown', async () => {
  assert.equal(readVolume('/proc').deviceBytes, undefined)
  const { before, after } = await growVolume('/proc', AbortSignal.timeout(1000))
  assert.equal(before, after)
  assert.equal(canGrow({ ...before, fileSystem: 'ntfs', deviceBytes: 2 ** 40, spanBytes: 2 ** 30 }), false)
  assert.equal(canGrow({ ...before, fileSystem: 'ext4', deviceBytes: 2 ** 40, spanBytes: 2 ** 30 }), true)
  assert.equal(canGrow({ ...before, fileSystem: 'ext4', deviceBytes: 2 ** 30 + 4096, spanBytes: 2 ** 30 }), false)
})

test('what is no superblock says nothing', () => {
  for (const kind of ['ext4', 'xfs', 'vfat']) assert.equal(parseSuperblock(kind, Buffer.alloc(4096), 1), undefined)
})

const kinds = [
  { kind: 'ext4', tool: 'resize2fs', megabytes: 64 },
  { kind: 'xfs', tool: 'xfs_growfs', megabytes: 320 },
  { kind: 'btrfs', tool: 'btrfs', megabytes: 128 },
]

for (const { kind, tool, megabytes } of kinds) {
  test(`${kind} grows with its device, mounted and in use`, { skip: whyNot(`mkfs.${kind}`, tool) }, async (t) => {
    using cleanUp = new DisposableStack()
    const folder = mkdtempSync(join(tmpdir(), 'beyond-volume-'))
    cleanUp.defer(() => rmSync(folder, { recursive: true, force: true }))
    const image = join(folder, 'image')
    const mountPoint = join(folder, 'my volume')
    writeFileSync(image, '')
    truncateSync(image, megabytes * MB)
    mkdirSync(mountPoint)
    const loop = run('losetup', '-f', '--show', image)
    cleanUp.defer(() => run('losetup', '-d', loop))
    run(`mkfs.${kind}`, '-q', loop)
    const mounted = spawnSync('mount', ['-t', kind, loop, mountPoint], { encoding: 'utf8' })
    if (mounted.status !== 0) return t.skip(`it can't be mounted here: ${mounted.stderr.trim()}`)
    cleanUp.defer(() => run('umount', mountPoint))
    const inUse = join(mountPoint, 'file')
    writeFileSync(inUse, 'as it was')

    const full = await growVolume(mountPoint, t.signal)
    assert.equal(full.before, full.after, 'nothing to grow')
    assert.deepEqual([full.before.fileSystem, full.before.device, full.before.mountPoint], [kind, loop, mountPoint])
    assert.equal(full.before.deviceBytes, megabytes * MB)

    truncateSync(image, 2 * megabytes * MB)
    run('losetup', '-c', loop)
    assert.equal(canGrow(readVolume(mountPoint)), true)
    if (kind === 'ext4' && !hasCapability(CAP_SYS_RESOURCE)) {
      await assert.rejects(growVolume(mountPoint, t.signal), { code: 'NO_PERMISSION', message: /ext4 file system on .* can't be grown: resize2fs says: .*denied/ })
      return t.skip('that it can grow was seen; to grow it this process lacks CAP_SYS_RESOURCE')
    }
    const { before, after } = await growVolume(mountPoint, t.signal)
    assert.ok(after.sizeBytes > 1.8 * before.sizeBytes, `${before.sizeBytes}, then ${after.sizeBytes}`)
    assert.ok(after.freeBytes > before.freeBytes)
    assert.equal(readFileSync(inUse, 'utf8'), 'as it was')
    assert.equal(canGrow(after), false)
    t.diagnostic(`${Math.round(before.sizeBytes / MB)} MB, then ${Math.round(after.sizeBytes / MB)} MB`)
  })
}

const CAP_SYS_RESOURCE = 24

/** Why this machine can't show it; false where it can. */
function whyNot(make: string, tool: string): string | false {
  if (process.getuid?.() !== 0) return 'loop devices and mounts need root'
  for (const name of [make, tool, 'losetup']) if (spawnSync('which', [name]).status !== 0) return `${name} is not installed`
  if (!existsSync('/dev/loop-control')) return 'there are no loop devices'
  return false
}

function hasCapability(number: number): boolean {
  const status = run('cat', '/proc/self/status')
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? '0'}`)
  return ((effective >> BigInt(number)) & 1n) === 1n
}

function run(program: string, ...args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} failed: ${error?.message ?? stderr.trim()}`)
  return stdout.trim()
}

/** Forks that share blocks with their source, on file systems of their own: needs root, loop devices and the tools that make them. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { Pgbench, preparePgbench } from '../support/pgbench.ts'
import { freePorts, kill, processesIn, query, startBox, superuserPassword, until } from './box-process.ts'
import { boxOf, checkBalance, checkPages, fork } from './fork-box.ts'

const IMAGE_BYTES = 1024 * 1024 * 1024

const run = (program: string, ...args: string[]): boolean => spawnSync(program, args, { encoding: 'utf8' }).status === 0

for (const { title, type, method, subvolume } of [
  { title: 'a subvolume of btrfs', type: 'btrfs', method: 'btrfs-snapshot', subvolume: true },
  { title: 'a directory of btrfs', type: 'btrfs', method: 'reflink', subvolume: false },
  { title: 'a directory of XFS', type: 'xfs', method: 'reflink', subvolume: false },
]) {
  test(`${title} is forked under load, and its fork too`, async (t) => {
    const mount = mounted(t, type)
    if (mount === undefined) return
    const data = join(mount, 'source')
    if (subvolume && !run('btrfs', 'subvolume', 'create', data)) return t.skip('btrfs makes no subvolume')
    if (subvolume) chmodSync(data, 0o700)
    const { box, file } = await startBox(data, await freePorts())
    const target = { ...file.pooler, user: 'postgres', password: superuserPassword(file), database: 'postgres' }
    preparePgbench(target, 1)
    await using bench = new Pgbench(target, 2)
    const made = await fork(data, 'one')
    assert.equal(made.method, method)
    const again = await fork(made.path, 'two')
    assert.equal(again.method, method)
    assert.deepEqual((await bench.stop()).failures, [])
    for (const { path } of [made, again]) {
      await until(() => existsSync(join(path, 'box.json')))
      assert.equal(await checkBalance(boxOf(path)), await checkBalance(boxOf(made.path)))
      await checkPages(boxOf(path))
      assert.deepEqual(await query(boxOf(path), 'SELECT slot_name FROM pg_replication_slots'), [])
    }
    for (const name of ['one', 'two']) await fork(data, 'remove', name)
    assert.ok(!existsSync(join(mount, 'forks')))
    await checkBalance(file)
    assert.equal((await box.stop()).code, 0)
  })
}

/** Undefined, and the test skipped with a reason, where it can't be had. */
function mounted(t: TestContext, type: string): string | undefined {
  const skip = (reason: string): undefined => void t.skip(reason)
  if (process.getuid?.() !== 0) return skip('only root mounts file systems')
  if (!statSync('/dev/loop-control', { throwIfNoEntry: false })) return skip('there are no loop devices')
  const folder = mkdtempSync(join(tmpdir(), 'beyond-box-'))
  const image = join(folder, 'image')
  const mount = join(folder, 'mount')
  t.after(async () => {
    for (const pid of processesIn(folder)) kill(pid)
    await until(() => processesIn(folder).length === 0)
    run('umount', mount)
    rmSync(folder, { recursive: true })
  })
  for (const path of [folder, mount]) {
    mkdirSync(path, { recursive: true })
    chmodSync(path, 0o755)
  }
  writeFileSync(image, '')
  truncateSync(image, IMAGE_BYTES)
  if (!run(`mkfs.${type}`, '-q', image)) return skip(`there is no mkfs.${type}`)
  if (!run('mount', '-o', 'loop', image, mount)) return skip(`${type} can't be mounted here`)
  chmodSync(mount, 0o755)
  return mount
}

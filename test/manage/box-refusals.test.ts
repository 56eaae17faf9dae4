/** What keeps a box from starting: one sentence with what to do, exit code 5 or 2, and nothing touched. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { BoxProcess, freePorts, startArguments, temporaryFolder } from './box-process.ts'

const isRoot = process.getuid?.() === 0

async function refusal(args: string[], expected: { code: number; sentence: RegExp }, env: Record<string, string> = {}): Promise<void> {
  const box = new BoxProcess(args, { env: { ...env } })
  const { code } = await box.ended
  const lines = box.stderr.split('\n').filter((line) => line !== '' && !line.startsWith('{'))
  assert.match(lines.join('\n'), expected.sentence)
  assert.equal(code, expected.code)
  assert.equal(lines.length, 1, `one sentence:\n${box.stderr}`)
}

/** A directory as a box leaves it, as far as it can be made without Postgres. */
function usedDirectory(t: TestContext, version: string | undefined): string {
  const data = join(temporaryFolder(t), 'box')
  mkdirSync(join(data, 'postgres'), { recursive: true, mode: 0o700 })
  writeFileSync(join(data, 'beyond-pg.json'), '{"version":1,"initialized":true}\n')
  if (version !== undefined) writeFileSync(join(data, 'postgres/PG_VERSION'), version)
  if (isRoot) chownSync(join(data, 'postgres'), 65534, 65534)
  return data
}

test('ports that belong to others', async (t) => {
  const data = join(temporaryFolder(t), 'box')
  await using tcp = createServer().listen(0, '127.0.0.1')
  await once(tcp, 'listening')
  const taken = (tcp.address() as AddressInfo).port
  const ports = await freePorts()
  await refusal(startArguments(data, { ...ports, pooler: taken }), { code: 5, sentence: new RegExp(`Port ${taken} of 127.0.0.1, meant for PgBouncer.*--port\\.`) })
  await refusal(startArguments(data, { ...ports, postgres: taken }), { code: 5, sentence: new RegExp(`Port ${taken}.*Postgres.*--postgres-port\\.`) })
  const udp = createSocket('udp4').bind(0, '127.0.0.1')
  await once(udp, 'listening')
  const { port } = udp.address()
  await refusal(startArguments(data, { ...ports, quic: port }), { code: 5, sentence: new RegExp(`UDP port ${port}.*QUIC.*--quic-port\\.`) })
  udp.close()
  await refusal([...startArguments(data, ports), '--listen=203.0.113.1'], { code: 2, sentence: /203\.0\.113\.1 is not an address of this machine.*--listen/ })
  assert.ok(!existsSync(join(data, 'postgres')), 'nothing was started before')
})

test('directories that are not ours', async (t) => {
  const ports = await freePorts()
  const folder = temporaryFolder(t)
  const refuse = async (name: string, sentence: RegExp): Promise<void> => {
    const path = join(folder, name)
    const before = existsSync(path) && statSync(path).isDirectory() ? readdirSync(path) : undefined
    await refusal(startArguments(path, ports), { code: 5, sentence })
    if (before) assert.deepEqual(readdirSync(path), before, 'nothing was touched')
  }
  writeFileSync(join(folder, 'file'), '')
  await refuse('file', /is not a directory.*--data/)
  mkdirSync(join(folder, 'home'))
  writeFileSync(join(folder, 'home/thesis.txt'), 'three years')
  await refuse('home', /not empty and not the data directory of a box.*--data/)
  mkdirSync(join(folder, 'cluster'))
  writeFileSync(join(folder, 'cluster/PG_VERSION'), '16\n')
  await refuse('cluster', /is a data directory of Postgres, not of a box.*--data/)
  symlinkSync(join(folder, 'gone'), join(folder, 'link'))
  await refuse('link', /is a link to a directory that is gone/)
})

test('directories of ours that can not be used', async (t) => {
  const ports = await freePorts()
  const refuse = (data: string, sentence: RegExp): Promise<void> => refusal(startArguments(data, ports), { code: 5, sentence })
  await refuse(usedDirectory(t, '16\n'), /is of Postgres 16, and this is Postgres 18.*pg_upgrade.*--data/)
  const incomplete = usedDirectory(t, undefined)
  await refuse(incomplete, /has no PG_VERSION.*nothing in it was touched/)
  assert.deepEqual(readdirSync(join(incomplete, 'postgres')), [])
  const lost = join(temporaryFolder(t), 'box')
  mkdirSync(lost)
  writeFileSync(join(lost, 'beyond-pg.json'), '{"version":1,"initialized":true}\n')
  await refuse(lost, /postgres is gone, and a database was there before/)
  assert.ok(!existsSync(join(lost, 'postgres')))
})

test('owners and folders that the account of Postgres can not use', { skip: !isRoot && 'needs root' }, async (t) => {
  const ports = await freePorts()
  const folder = temporaryFolder(t)
  mkdirSync(join(folder, 'closed'), { mode: 0o700 })
  await refusal(startArguments(join(folder, 'closed/box'), ports), { code: 5, sentence: /may not pass through .*closed: .*--data/ })
  const theirs = usedDirectory(t, '18\n')
  chownSync(join(theirs, 'postgres'), 12_345, 12_345)
  await refusal(startArguments(theirs, ports), { code: 5, sentence: /belongs to another account \(uid 12345\)/ })
  const foreign = join(folder, 'foreign')
  mkdirSync(foreign)
  chownSync(foreign, 12_345, 12_345)
  await refusal(startArguments(foreign, ports), { code: 5, sentence: /foreign belongs to another account \(uid 12345\)/ })
  chmodSync(join(folder, 'closed'), 0o755)
})

test('a full disk, and what was begun on it is removed', { skip: !isRoot && 'needs root' }, async (t) => {
  const disk = join(temporaryFolder(t), 'disk')
  mkdirSync(disk)
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=20m,mode=755', 'tmpfs', disk]).status === 0
  if (!mounted) return t.skip('can not mount here')
  try {
    await refusal(startArguments(join(disk, 'box'), await freePorts()), { code: 5, sentence: /The disk is full while making .*postgres: make room and start again/ })
    assert.ok(!existsSync(join(disk, 'box/postgres')) && !existsSync(join(disk, 'box/postgres.unfinished')))
  } finally {
    spawnSync('umount', [disk])
  }
})

test('promises that this version can not keep', async (t) => {
  const data = join(temporaryFolder(t), 'box')
  const ports = await freePorts()
  for (const [key, value] of [['BEYOND_PG_TIER', 'sink'], ['BEYOND_PG_PITR_TARGET', 'immediate']]) {
    await refusal(startArguments(data, ports), { code: 2, sentence: new RegExp(`${key} can't be honoured: .*; remove it`) }, { [key]: value })
  }
  await refusal([...startArguments(data, ports), '--settings', join(data, 'none')], { code: 2, sentence: /The settings in .*none can't be read: ENOENT/ })
  const elsewhere = { BEYOND_VOLUME_MOUNT: join(data, '..') }
  await refusal(startArguments(data, ports), { code: 5, sentence: /The volume that must be mounted on .* is not: mount it/ }, elsewhere)
  await refusal(startArguments(data, ports), { code: 2, sentence: /does not lie on the volume \/proc/ }, { BEYOND_VOLUME_MOUNT: '/proc' })
  assert.ok(!existsSync(data))
})

test('programs and arguments that will not do', async (t) => {
  const ports = await freePorts()
  const folder = temporaryFolder(t)
  const data = join(folder, 'box')
  await refusal(startArguments(data, ports), { code: 5, sentence: /can't run .*postgres: .*BEYOND_PG_BINDIR/ }, { BEYOND_PG_BINDIR: '/nonexistent' })
  for (const [name, version] of [['postgres', 'postgres (PostgreSQL) 16.2'], ['initdb', ''], ['pgbouncer', 'PgBouncer 1.18.0']]) {
    writeFileSync(join(folder, name), `#!/bin/sh\necho '${version}'\n`, { mode: 0o755 })
  }
  await refusal(startArguments(data, ports), { code: 5, sentence: /Postgres 18 is needed, and .* is 16\.2/ }, { BEYOND_PG_BINDIR: folder })
  await refusal(startArguments(data, ports), { code: 5, sentence: /PgBouncer 1\.24 or later is needed, and .* is 1\.18/ }, { BEYOND_PGBOUNCER: join(folder, 'pgbouncer') })
  await refusal(['start', '--bogus', '1'], { code: 2, sentence: /unknown option '--bogus'/ })
  await refusal(['start', '--port', 'x'], { code: 2, sentence: /--port must be a port/ })
  await refusal(['demo', '--data', join(folder, 'none')], { code: 3, sentence: /No box was ever ready in .*npm start/ })
  await refusal(['demo', '--rate', '0'], { code: 2, sentence: /--rate must be a number above 0/ })
})

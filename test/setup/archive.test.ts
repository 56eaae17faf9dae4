import assert from 'node:assert/strict'
import { test } from 'node:test'
import { aptConfiguration, aptSentence, downloadPercent, mirrorsIn, sourcesLine } from '../../setup/archive.mjs'
import { distributionOf } from '../../setup/platform.mjs'

const debian = distributionOf('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_CODENAME=bookworm\n')!
const ubuntu = distributionOf('NAME="Ubuntu"\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\n')!

test('the mirror is that of the main archive, whatever stands beside it', () => {
  const targets = `https://packages.example.com/apt/|bookworm|main|Packages
http://mirror.example.org/debian-security/|bookworm-security|main|Packages
cdrom:[Debian]/|bookworm|main|Packages
http://mirror.example.org/debian/|bookworm|main|Packages
http://mirror.example.org/debian/|bookworm|main|Translations
http://mirror.example.org/debian/|bookworm-updates|main|Packages
http://mirror.example.org/debian/|bookworm|contrib|Packages
`
  assert.deepEqual(mirrorsIn(targets, debian), ['http://mirror.example.org/debian/', 'https://packages.example.com/apt/'])
})

test('a mirror list of a cloud image is a mirror', () => {
  const targets = 'mirror+file:///etc/apt/mirrors/debian.list/|trixie|main|Packages\nmirror+file:///etc/apt/mirrors/debian-security.list/|trixie-security|main|Packages\n'
  assert.deepEqual(mirrorsIn(targets, debian), ['mirror+file:///etc/apt/mirrors/debian.list/'])
})

test('Ubuntu 24.04 takes Postgres 18 from the suite of 26.04, main and universe, of its own mirror', () => {
  const targets = 'http://ports.example.org/ubuntu-ports/|noble|main|Packages\nhttp://ports.example.org/ubuntu-ports/|noble-security|main|Packages\n'
  const [mirror = ''] = mirrorsIn(targets, ubuntu)
  assert.equal(sourcesLine(mirror, ubuntu, 'arm64'),
    'deb [arch=arm64 signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg target=Packages] http://ports.example.org/ubuntu-ports/ resolute main universe\n')
})

test('no sources, no mirror', () => {
  assert.deepEqual(mirrorsIn('', debian), [])
})

test('all of the files that apt writes are below our own folder', () => {
  const folders = [...aptConfiguration('/own', 'amd64').matchAll(/^Dir::\S+ "(.*)";$/gm)].map((match) => match[1]!)
  assert.ok(folders.length >= 8)
  assert.deepEqual(folders.filter((path) => !path.startsWith('/own/') && path !== '/dev/null'), [])
})

test('progress is read from the status pipe', () => {
  assert.equal(downloadPercent('dlstatus:3:12.5:Retrieving file 3 of 92 (2min remaining)'), 13)
  assert.equal(downloadPercent('pmstatus:x:50:Installing'), undefined)
  assert.equal(downloadPercent('dlstatus:1:104.2:Retrieving'), 100)
})

const said: [string, RegExp][] = [
  ["E: Failed to fetch http://m/InRelease  Temporary failure resolving 'm'", /can't be reached: check the network/],
  ['E: Failed to fetch http://m/InRelease  Could not connect to m:80 (1.2.3.4). - connect (111: Connection refused)', /can't be reached/],
  ["E: You don't have enough free space in /own/cache/archives/.", /^The disk is full/],
  ['W: Failed  Write error - write (28: No space left on device)', /^The disk is full/],
  ['E: Could not open lock file /own/lock - open (13: Permission denied)', /^No permission/],
  ['W: GPG error: http://m forky InRelease: The following signatures were invalid: NO_PUBKEY 6ED0E7B82643E131', /signature can't be checked/],
  ["E: The repository 'http://m forky Release' does not have a Release file.", /lacks Debian's suite forky: set BEYOND_PG_MIRROR/],
  ['E: Unable to locate package postgresql-18', /lacks Debian's suite forky/],
  ['Reading…\nE: Something new', /^apt could not download Postgres 18: Something new$/],
  ['', /it gave no reason/],
]
for (const [output, sentence] of said) {
  test(`apt said: ${output.slice(0, 60)}`, () => {
    const text = aptSentence(output, debian)
    assert.match(text, sentence)
    assert.doesNotMatch(text, /\n/)
  })
}

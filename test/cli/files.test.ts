import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { findLocalBox } from '../../src/cli/local-box.ts'
import { PositionSaver, readPositionFile, writePositionFile } from '../../src/cli/position-file.ts'
import { parseAddress, parseIsoTime } from '../../src/transport/client-options.ts'

const directory = mkdtempSync(join(tmpdir(), 'beyond-pg-test-cli-'))
after(() => rmSync(directory, { recursive: true, force: true }))
const position = (lsn: string) => `${lsn}:${'ab'.repeat(32)}`

describe('the position file', () => {
  const path = join(directory, 'position')

  it('is written whole and read back', async () => {
    assert.equal(await readPositionFile(path), undefined)
    const saved = { position: `${position('0/2')}+3@0/5`, checkpoints: [position('0/1')] }
    await writePositionFile(path, saved)
    assert.deepEqual(await readPositionFile(path), saved)
    assert.deepEqual(readdirSync(directory).filter((name) => name.includes('tmp')), [])
  })

  it('is not taken for one when it is something else', async () => {
    writeFileSync(join(directory, 'other'), 'hello\n')
    writeFileSync(join(directory, 'empty'), '')
    for (const name of ['other', 'empty']) await assert.rejects(readPositionFile(join(directory, name)), { code: 'BAD_ARGUMENT' })
  })

  it('is written now and then, and at the end', async () => {
    let now = 1000
    const saver = new PositionSaver(path, 200, () => now)
    const reached = (lsn: string) => saver.reached(() => ({ position: position(lsn), checkpoints: [] }))
    const inFile = () => readFileSync(path, 'utf8').split(':')[0]
    await reached('0/A')
    assert.equal(inFile(), '0/A')
    await reached('0/B')
    assert.equal(inFile(), '0/A')
    now += 200
    await reached('0/C')
    assert.equal(inFile(), '0/C')
    await reached('0/D')
    await saver.flush()
    assert.equal(inFile(), '0/D')
  })

  it('says when it can not be written', async () => {
    await assert.rejects(writePositionFile(join(directory, 'nowhere', 'position'), { position: position('0/1'), checkpoints: [] }))
  })
})

describe('a local box', () => {
  const write = (box: unknown) => writeFileSync(join(directory, 'box.json'), typeof box === 'string' ? box : JSON.stringify(box))
  const good = {
    version: 1,
    quic: { host: '127.0.0.1', port: 9443 },
    tls: { ca: 'tls/ca.crt', cert: '/abs/client.crt', key: 'tls/client.key' },
  }

  it('is found by its file', async () => {
    write(good)
    assert.deepEqual(await findLocalBox(directory), {
      server: '127.0.0.1:9443',
      caFile: join(directory, 'tls/ca.crt'),
      certFile: '/abs/client.crt',
      keyFile: join(directory, 'tls/client.key'),
    })
    write({ ...good, quic: { host: '::1', port: 1 } })
    assert.equal((await findLocalBox(directory)).server, '[::1]:1')
  })

  it('that streams nothing, or is not there, can not be reached', async () => {
    write({ ...good, quic: null })
    await assert.rejects(findLocalBox(directory), { code: 'UNREACHABLE' })
    await assert.rejects(findLocalBox(join(directory, 'nowhere')), { code: 'UNREACHABLE' })
  })

  for (const bad of ['{', 'null', { version: 2 }, { version: 1 }, { ...good, tls: {} }])
    it(`is refused when its file is ${JSON.stringify(bad)}`, async () => {
      write(bad)
      await assert.rejects(findLocalBox(directory), { code: 'BAD_ARGUMENT' })
    })
})

describe('arguments', () => {
  it('may be a time', () => {
    const base = Date.parse('2026-11-22T09:40:00Z')
    const at = (text: string) => parseIsoTime(text)
    assert.equal(at('2026-11-22T09:40:00Z'), BigInt(base) * 1000n)
    assert.equal(at('2026-11-22 09:40:00.123456'), BigInt(base) * 1000n + 123456n)
    assert.equal(at('2026-11-22T10:40+01:00'), BigInt(base) * 1000n)
    assert.equal(at('2026-11-22T08:10-0130'), BigInt(base) * 1000n)
    assert.equal(at('2026-11-22'), BigInt(Date.parse('2026-11-22')) * 1000n)
    const none = ['2026-02-30', '2026-11-22T25:00', 'yesterday', '', '2026', '2026-11-22T10:00+17']
    for (const text of none) assert.equal(at(text), undefined, text)
  })

  it('may be an address', () => {
    assert.deepEqual(parseAddress('db.example.com'), { host: 'db.example.com', port: 9443 })
    assert.deepEqual(parseAddress('10.0.0.1:1'), { host: '10.0.0.1', port: 1 })
    assert.deepEqual(parseAddress('::1'), { host: '::1', port: 9443 })
    assert.deepEqual(parseAddress('[2001:db8::1]:5'), { host: '2001:db8::1', port: 5 })
    for (const text of ['', ':1', 'a:0', 'a:65536', '[a]:1', 'a b']) assert.throws(() => parseAddress(text), { code: 'BAD_ARGUMENT' }, text)
  })
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BeyondError } from '../../src/errors.ts'
import { readMetadata } from '../../src/manage/metadata.ts'
import { parseBoxConfig } from '../../src/manage/box-config.ts'
import { readSettings } from '../../src/manage/settings-source.ts'
import { type Fault, startMmds } from '../support/mmds.ts'

const { signal } = new AbortController()
const quick = { signal, patienceMs: 3_000, requestMs: 200, random: () => 0 }
const tree = { latest: { 'meta-data': { hostname: 'db1', beyond: { BEYOND_PG_TIER: 'replica' } } } }

for (const version of [1, 2] as const) {
  test(`version ${version} is read`, async () => {
    await using service = await startMmds({ version, tree })
    assert.deepEqual(await readMetadata({ ...quick, address: service.address }), tree)
    assert.deepEqual(service.requests, ['PUT /latest/api/token', 'GET /'])
  })

  test(`version ${version}: every fault of a token or a read is overcome`, async () => {
    const faults: Fault[] = ['refuse', 'silence', 'half', 'garbage', 500, 503, 'huge', 'redirect', 'array']
    for (const fault of faults) {
      await using service = await startMmds({ version, tree, readFaults: [fault, fault] })
      assert.deepEqual(await readMetadata({ ...quick, address: service.address }), tree, `a read that meets ${fault}`)
    }
    // Garbage would be a token to us; what it is used for is then refused, and another one is asked for.
    for (const fault of faults.filter((fault) => fault !== 'array')) {
      await using service = await startMmds({ version, tree, tokenFaults: [fault] })
      assert.deepEqual(await readMetadata({ ...quick, address: service.address }), tree, `a token that meets ${fault}`)
    }
  })
}

test('a token that is no longer valid is replaced', async () => {
  await using service = await startMmds({ version: 2, tree, readFaults: [401] })
  await readMetadata({ ...quick, address: service.address })
  assert.equal(service.requests.filter((request) => request.startsWith('PUT')).length, 2)
})

test('a service that is filled late is waited for', async () => {
  await using service = await startMmds({ version: 2, tree: undefined })
  const reading = readMetadata({ ...quick, address: service.address })
  while (service.requests.length < 4) await new Promise((resolve) => setImmediate(resolve))
  service.options.tree = tree
  assert.deepEqual(await reading, tree)
})

for (const [what, options] of [
  ['is not there', undefined],
  ['is never filled', { version: 2, tree: undefined }],
  ['answers a token request with 500 for ever', { version: 2, tree, tokenFaults: Array<Fault>(1000).fill(500) }],
  ['has text for a tree', { version: 1, tree, readFaults: Array<Fault>(1000).fill('garbage') }],
] as const) {
  test(`a service that ${what} is an error, never a set of defaults`, async () => {
    await using service = options ? await startMmds(options as Parameters<typeof startMmds>[0]) : undefined
    const address = service?.address ?? 'http://127.0.0.1:1/'
    const reading = readSettings({ kind: 'metadata', address, patienceMs: 400 }, { BEYOND_PG_TIER: 'primary' }, signal)
    await assert.rejects(reading, (error) => error instanceof BeyondError && error.code === 'UNREACHABLE' && error.retry && error.message.includes(address))
  })
}

test('the wait ends with its signal', async () => {
  const stop = new AbortController()
  const reading = readMetadata({ address: 'http://127.0.0.1:1/', signal: stop.signal })
  setTimeout(() => stop.abort(), 50)
  await assert.rejects(reading, { name: 'AbortError' })
})

test('settings of the service become a config; the environment wins', async () => {
  await using service = await startMmds({
    version: 2,
    tree: { latest: { 'meta-data': { BEYOND_PG_MEMORY_MB: 512, BEYOND_VOLUME_EPHEMERAL: true, BEYOND_PG_PORT: '6000', BEYOND_PG_DATABASES: ['a', 'b=ann'], other: { x: 1 } } } },
  })
  const given = await readSettings({ kind: 'metadata', address: service.address }, { BEYOND_PG_PORT: '7000', HOME: '/' }, signal)
  const { settings, poolerPort } = parseBoxConfig({}, given, '/here')
  assert.equal(poolerPort, 7000)
  assert.equal(settings.memoryMb, 512)
  assert.equal(settings.ephemeral, true)
  assert.deepEqual(settings.databases, [
    { name: 'a', owner: 'postgres' },
    { name: 'b', owner: 'ann' },
  ])
})

import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { SinkClient } from '../../src/sink/fetch-client.ts'
import { restoreCommand } from '../../src/sink/fetch-command.ts'
import { readyFolder, startFetcher, type FetcherOptions } from '../../src/sink/fetch-daemon.ts'
import { fetchFromFetcher } from '../../src/sink/fetch-socket.ts'
import { FakeSink } from './fake-sink.ts'
import { endOfPages, fakeSegment, SEGMENT_BYTES } from './fake-wal.ts'
import { quiet, served, type Served } from './http-support.ts'

const name = (number: number): string => `0000000100000000${number.toString(16).toUpperCase().padStart(8, '0')}`
const LAST = 20

async function until(what: string, isSo: () => boolean): Promise<void> {
  for (const startedAt = performance.now(); !isSo(); await sleep(10)) if (performance.now() - startedAt > 10_000) assert.fail(`never: ${what}`)
}

describe('the fetcher', () => {
  const sinks = [new FakeSink(), new FakeSink()]
  const https: Served[] = []
  let folder: string
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'fetcher-'))
    for (const sink of sinks) {
      for (let number = 3; number < LAST; number++) sink.hold(name(number), fakeSegment(BigInt(number)))
      https.push(await served(sink))
    }
    // The second sink was sealed further on: what the first one has of the last segment is not all.
    sinks[0].hold(name(LAST), fakeSegment(BigInt(LAST), { pages: 2 }), { kind: 'sealed', end: endOfPages(BigInt(LAST), 2) })
    sinks[1].hold(name(LAST), fakeSegment(BigInt(LAST), { pages: 9 }), { kind: 'sealed', end: endOfPages(BigInt(LAST), 9) })
    sinks[0].seals(1, endOfPages(BigInt(LAST), 2))
    sinks[1].seals(1, endOfPages(BigInt(LAST), 9))
  })
  after(async () => {
    for (const each of https) await each[Symbol.asyncDispose]()
    await rm(folder, { recursive: true, force: true })
  })

  async function fetcher(stack: AsyncDisposableStack, options: Partial<FetcherOptions> = {}) {
    const place = await mkdtemp(join(folder, 'f-'))
    const clients = https.map((each) => stack.use(new SinkClient({ url: `https://127.0.0.1:${each.server.port}`, tls: { ca: each.authority.cert, ...each.identities.reader } })))
    const directory = join(place, 'ahead')
    const socket = join(place, 'socket')
    stack.use(await startFetcher({ sinks: clients, needed: 2, directory, socket, aheadBytes: 4 * SEGMENT_BYTES, deadlineMs: 5_000, log: quiet, ...options }))
    const to = join(place, 'RECOVERYXLOG')
    const ready = () => readdir(readyFolder(directory))
    const ask = (file: string) => fetchFromFetcher(socket, file, to, { deadlineMs: 5_000, signal: new AbortController().signal })
    return { directory, socket, to, ready, ask, inReady: (file: string) => existsSync(join(readyFolder(directory), file)) }
  }

  test('answers on a socket that is ours alone, and fetches ahead within its window', async () => {
    await using stack = new AsyncDisposableStack()
    const { ask, to, socket, ready, inReady, directory } = await fetcher(stack)
    assert.equal((await stat(socket)).mode & 0o777, 0o600)
    assert.equal((await stat(directory)).mode & 0o777, 0o700)
    assert.equal(await ask(name(3)), 'file')
    assert.ok((await readFile(to)).equals(fakeSegment(3n)))
    await until('four are ready', () => [4, 5, 6, 7].every((number) => inReady(name(number))))
    assert.equal((await ready()).length, 4)
    // Taken by `mv`, out of its sight: it notices, and goes on.
    execFileSync('mv', [join(readyFolder(directory), name(4)), to])
    execFileSync('mv', [join(readyFolder(directory), name(5)), to])
    await until('the next ones are ready', () => [8, 9].every((number) => inReady(name(number))))
    assert.deepEqual((await ready()).sort(), [6, 7, 8, 9].map(name))
    // A jump to another place.
    assert.equal(await ask(name(14)), 'file')
    await until('the window has moved', () => [15, 16, 17, 18].every((number) => inReady(name(number))) && !inReady(name(6)))
  })

  test('never holds ready what depends on the moment: the last segment, and the end', async () => {
    await using stack = new AsyncDisposableStack()
    const { ask, to, ready, inReady } = await fetcher(stack)
    assert.equal(await ask(name(17)), 'file')
    await until('all closed ones are ready', () => [18, 19].every((number) => inReady(name(number))))
    assert.equal(await ask(name(18)), 'file')
    assert.equal(await ask(name(19)), 'file')
    assert.deepEqual(await ready(), [])
    assert.equal(await ask(name(LAST)), 'file')
    assert.ok((await readFile(to)).equals(fakeSegment(BigInt(LAST), { pages: 9 })), 'the one of the sink that has more')
    assert.equal(await ask(name(LAST)), 'file', 'again, as recovery does')
    assert.equal(await ask(name(LAST + 1)), 'end')
    assert.equal(await ask('00000002.history'), 'end')
  })

  test('what can not be answered fails in time, and says why', async () => {
    await using stack = new AsyncDisposableStack()
    const { ask } = await fetcher(stack, { deadlineMs: 300 })
    await assert.rejects(ask(name(2)), { code: 'UNREACHABLE', message: /could not be fetched within 0\.3 s/ })
    await assert.rejects(ask('../../etc/passwd'), { message: /is not the name/ })
  })

  test('leaves nothing behind', async () => {
    const stack = new AsyncDisposableStack()
    const { ask, directory, socket } = await fetcher(stack)
    await ask(name(3))
    await stack.disposeAsync()
    assert.ok(!existsSync(directory) && !existsSync(socket))
  })

  test('the restore_command takes what is ready, asks for the rest, and tells the end from every fault', async () => {
    const place = await mkdtemp(join(folder, "a place, 100% it's own "))
    const ready = join(place, 'ready')
    await mkdir(ready)
    const run = async (program: string, file: string): Promise<{ exit: number | null; there: boolean }> => {
      const to = join(place, 'RECOVERYXLOG')
      await rm(to, { force: true })
      const text = restoreCommand({ fetch: [process.execPath, '-e', program, '--', 'fetch', '--end-exit=0'], readyFolder: ready })
      // As Postgres does it: BuildRestoreCommand
      const command = text.replaceAll(/%(.)/g, (_, letter: string) => ({ f: file, p: to, '%': '%' })[letter] ?? assert.fail(letter))
      const { promise, resolve } = Promise.withResolvers<number | null>()
      const child = execFile('/bin/sh', ['-c', command], () => resolve(child.exitCode ?? 128))
      return { exit: await promise, there: existsSync(to) }
    }
    await using file = await (await import('node:fs/promises')).open(join(ready, name(3)), 'w')
    await file.writeFile('x')
    assert.deepEqual(await run('process.exit(50)', name(3)), { exit: 0, there: true })
    assert.deepEqual(await run('process.exit(0)', name(3)), { exit: 0, there: false })
    assert.equal((await run('process.exit(117)', name(3))).exit, 1)
    // Whatever a runtime says when it can't run must not be taken for the end of WAL.
    assert.equal((await run('this is no program', name(3))).exit, 200)
    for (const code of [1, 2, 13, 66, 125]) assert.equal((await run(`process.exit(${code})`, name(3))).exit, 200)
    for (const code of [126, 200]) assert.equal((await run(`process.exit(${code})`, name(3))).exit, code)
    assert.ok(((await run('process.kill(process.pid, "SIGKILL")', name(3))).exit ?? 0) > 125)
  })
})

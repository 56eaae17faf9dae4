/** The commands for people, against a served sink. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { FakeSink } from './fake-sink.ts'
import { fakeSegment } from './fake-wal.ts'
import { served } from './http-support.ts'

const CLI = join(import.meta.dirname, '../../src/beyond-pg-sink.ts')

test('status, list, pin and verify, for people and as JSON; a refusal is a sentence with a code', async () => {
  const sink = new FakeSink()
  sink.hold('000000010000000000000003', fakeSegment(3n))
  sink.kept.set('00000002.history', Buffer.from('1\t0/5000000\tx\n'))
  await using http = await served(sink)
  const folder = await mkdtemp(join(tmpdir(), 'sink-cli-'))
  const write = async (name: string, text: string): Promise<string> => (await writeFile(join(folder, name), text), join(folder, name))
  const env = { ...process.env, BEYOND_SINK_URL: `https://localhost:${http.server.port}`, BEYOND_SINK_CA: await write('ca', http.authority.cert), BEYOND_SINK_CERT: '', BEYOND_SINK_KEY: '' }
  const run = async (as: 'reader' | 'admin', ...args: string[]) => {
    const identity = http.identities[as]
    const files = { BEYOND_SINK_CERT: await write(`${as}.crt`, identity.cert), BEYOND_SINK_KEY: await write(`${as}.key`, identity.key) }
    const { promise, resolve } = Promise.withResolvers<{ exit: number | null; out: string; err: string }>()
    const child = execFile(process.execPath, [CLI, ...args], { env: { ...env, ...files } }, (_error, out, err) => resolve({ exit: child.exitCode, out, err }))
    return promise
  }
  try {
    const [status, list, json, set, refused, verified, unknown] = await Promise.all([
      run('reader', 'status'),
      run('reader', 'list'),
      run('reader', 'list', '--json'),
      run('admin', 'pin', 'base.1', '0/3000000', '--expires', '2099-01-01T00:00:00Z'),
      run('reader', 'pin', 'base.2', '0/3000000', '--json'),
      run('admin', 'verify'),
      run('reader', 'status', '--sink', 'https://localhost:1'),
    ])
    assert.match(status.out, /^activity: +streaming$/m)
    assert.match(status.out, /^flushed: +0\/5000000 on timeline 1$/m)
    assert.match(list.out, /^000000010000000000000003 {2}closed +0\/300000 +0\/400000 +1\.0 MB\n00000002\.history +history +14 B\n$/)
    assert.equal(JSON.parse(json.out).segments[0].kind, 'closed')
    assert.match(set.out, /^base\.1 +0\/3000000 +until 2099-01-01T00:00:00Z\n$/)
    assert.equal(refused.exit, 5)
    assert.equal(JSON.parse(refused.err).error.code, 'FORBIDDEN')
    assert.equal(verified.out, 'missing: from 0/1000000 up to 0/2000000\n1 segments, 1 B read: all right, 1 gaps\n')
    assert.equal(unknown.exit, 3, unknown.err)
    assert.match(unknown.err, /localhost:1 can.t be asked.*UNREACHABLE/)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})

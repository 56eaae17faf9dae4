import assert from 'node:assert/strict'
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { QuicAddress } from '../../src/transport/quic.ts'
import { closed, createIdentities, dial, echo, listen, nextConnection, readBytes, writeAll, type Identities } from './quic-pair.ts'

const CHILD = fileURLToPath(new URL('quic-child.ts', import.meta.url))

let ids: Identities
before(async () => {
  ids = await createIdentities()
})

function start(what: string, task: object = {}): ChildProcess & AsyncDisposable {
  const child = fork(CHILD, [what, JSON.stringify({ server: ids.server, client: ids.client, ...task })], { stdio: 'inherit' })
  return Object.assign(child, {
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return
      child.kill('SIGKILL')
      await once(child, 'exit')
    },
  })
}

test('a client that is killed is noticed after the idle timeout', async () => {
  await using listener = await listen(ids.server, { idleTimeoutMs: 1500 })
  const accepted = nextConnection(listener)
  await using child = start('dial', { address: listener.address })
  const connection = await accepted
  echo(connection)
  await once(child, 'message')
  const end = closed(connection)
  child.kill('SIGKILL')
  const at = performance.now()
  const info = await end
  assert.deepEqual({ ...info, code: 0n }, { code: 0n, reason: 'idle timeout', remote: false, application: false })
  assert.ok(performance.now() - at < 5000)
})

test('a server that is killed is noticed, and close towards it does not hang', async () => {
  await using child = start('listen', {})
  const [{ address }] = (await once(child, 'message')) as [{ address: QuicAddress }]
  const connection = await dial({ address } as never, ids.client, { idleTimeoutMs: 1500 })
  const waiting = await dial({ address } as never, ids.client, { idleTimeoutMs: 20_000 })
  const stream = connection.openStream()
  await writeAll(stream, Buffer.from('x'))
  await readBytes(stream, 1)
  const end = closed(connection)
  const closedByUs = closed(waiting)
  child.kill('SIGKILL')
  await once(child, 'exit')
  const at = performance.now()
  waiting.openStream().write(Buffer.from('nobody reads this'))
  waiting.close(1n)
  const info = await end
  assert.equal(info.application, false)
  assert.equal(info.remote, false)
  await closedByUs
  assert.ok(performance.now() - at < 5000)
})

test('a connection without traffic stays, beyond the idle timeout', async () => {
  await using listener = await listen(ids.server, { idleTimeoutMs: 1500 })
  const accepted = nextConnection(listener)
  const client = await dial(listener, ids.client)
  echo(await accepted)
  await new Promise((resolve) => setTimeout(resolve, 3500))
  const stream = client.openStream()
  await writeAll(stream, Buffer.from('still here'))
  stream.finish()
  assert.equal((await readBytes(stream)).toString(), 'still here')
  client.close()
})

test('a process that has closed everything ends by itself', async () => {
  await using child = start('close')
  // The channel to us would keep it alive if it listened for messages; it does not.
  const [code] = (await once(child, 'exit')) as [number]
  assert.equal(code, 0)
})

test('process.exit ends a process with open connections at once', async () => {
  await using child = start('exit')
  const [code] = (await once(child, 'exit')) as [number]
  assert.equal(code, 7)
})

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import pino from 'pino'
import { BeyondError } from '../../src/errors.ts'
import { call, stream } from '../../src/manage/rpc-client.ts'
import { type Method, rpcBounds, type RpcBounds, RpcServer } from '../../src/manage/rpc-server.ts'
import { MAX_REQUEST_BYTES } from '../../src/manage/rpc-protocol.ts'
import { until } from './box-process.ts'

type Call = Parameters<Method['run']>
const method = (run: (...call: Call) => unknown, deadlineMs: number | undefined = 5_000): Method => ({ deadlineMs, run: async (...args) => run(...args) })

/** Never ends by itself; tells why it was ended. */
function patient(ends: unknown[]): Method {
  return method(async (_params, { signal }) => {
    await once(signal, 'abort')
    ends.push(signal.reason)
    throw signal.reason
  }, undefined)
}

async function serve(t: TestContext, methods: Record<string, Method>, bounds: Partial<RpcBounds> = {}, folder = temporary(t)): Promise<{ path: string; server: RpcServer }> {
  const path = join(folder, 'rpc.sock')
  const server = await RpcServer.listen({ path, methods: new Map(Object.entries(methods)), logger: pino({ level: 'silent' }), bounds: { ...rpcBounds, ...bounds } })
  t.after(() => server[Symbol.asyncDispose]())
  return { path, server }
}

function temporary(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'beyond-rpc-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** A client without manners: what it says is bytes, what it hears is lines. */
class Raw {
  readonly socket: Socket
  text = ''
  closed = false

  constructor(path: string) {
    this.socket = connect(path)
    this.socket.setEncoding('utf8').on('data', (text: string) => (this.text += text))
    this.socket.on('error', () => undefined)
    this.socket.once('close', () => (this.closed = true))
  }

  get answers(): Record<string, any>[] {
    return this.text.split('\n').slice(0, -1).map((line) => JSON.parse(line))
  }

  say(text: string): this {
    this.socket.write(text)
    return this
  }

  /** Resolves with that many answers. */
  async heard(count: number): Promise<Record<string, any>[]> {
    await until(() => this.answers.length >= count || this.closed)
    return this.answers
  }

  async gone(): Promise<Record<string, any>[]> {
    await until(() => this.closed)
    return this.answers
  }
}

test('a method answers with a result, with items, with an error', async (t) => {
  const { path } = await serve(t, {
    add: method((params) => (params['a'] as number) + (params['b'] as number)),
    count: method(async (_params, { send }) => {
      for (let n = 1; n <= 3; n++) await send(n)
      return 'done'
    }),
    refuse: method(() => {
      throw new BeyondError('BAD_REQUEST', 'Not like this.')
    }),
    fail: method(() => {
      throw new Error('a secret')
    }),
  })
  assert.equal(await call(path, 'add', { params: { a: 1, b: 2 } }), 3)
  const items: unknown[] = []
  for await (const item of stream(path, 'count')) items.push(item)
  assert.deepEqual(items, [1, 2, 3])
  await assert.rejects(call(path, 'refuse'), { code: 'BAD_REQUEST', message: 'Not like this.' })
  await assert.rejects(call(path, 'fail'), (error: BeyondError) => error.code === 'INTERNAL' && !error.message.includes('secret'))
  await assert.rejects(call(path, 'nonsense'), { code: 'BAD_REQUEST', message: /no method "nonsense".*add, count, refuse, fail/ })
})

test('many requests on one connection are answered each by its id', async (t) => {
  const { path } = await serve(t, { wait: method(async ({ ms }) => (await sleep(ms as number), ms)) })
  const client = new Raw(path)
  client.say('{"v":1,"id":"slow","method":"wait","params":{"ms":60}}\n{"v":1,"id":"fast","method":"wait","params":{"ms":1}}\n{"v":1,"id":"slow","method":"wait"}\n')
  const answers = await client.heard(3)
  const of = (id: string, key: string): unknown => answers.find((answer) => answer['id'] === id && key in answer)?.[key]
  assert.equal(of('fast', 'result'), 1)
  assert.equal(of('slow', 'result'), 60)
  assert.equal((of('slow', 'error') as { code: string }).code, 'BAD_REQUEST', 'an id that is in use')
  client.socket.destroy()
})

test('the socket is for its owner only, and gone with the server', async (t) => {
  const { path, server } = await serve(t, { hello: method(() => 'hello') })
  assert.equal(statSync(path).mode & 0o777, 0o600)
  await server[Symbol.asyncDispose]()
  assert.equal(existsSync(path), false)
  await assert.rejects(call(path, 'hello'), { code: 'UNREACHABLE' })
  await server[Symbol.asyncDispose]()
})

test('a later server takes the place of an earlier one, which leaves it alone', async (t) => {
  const folder = temporary(t)
  const first = await serve(t, { who: method(() => 'first') }, {}, folder)
  const second = await serve(t, { who: method(() => 'second') }, {}, folder)
  assert.equal(await call(first.path, 'who'), 'second')
  await first.server[Symbol.asyncDispose]()
  assert.equal(await call(second.path, 'who'), 'second')
})

test('a path of any length will do', async (t) => {
  const folder = join(temporary(t), 'a'.repeat(100), 'b'.repeat(100))
  mkdirSync(folder, { recursive: true })
  const { path } = await serve(t, { hello: method(() => 'hello') }, {}, folder)
  assert.equal(await call(path, 'hello'), 'hello')
})

test('another account is refused, by the mode and by the kernel’s word', { skip: process.getuid?.() !== 0 && 'needs root' }, async (t) => {
  const { path } = await serve(t, { hello: method(() => 'hello') })
  const dial = (uid: number) =>
    new Promise<string>((resolve) => {
      const script = `const s=require('net').connect(${JSON.stringify(path)});let t='';s.on('data',d=>t+=d);s.on('error',e=>{console.log(e.code)});s.on('close',()=>console.log(t));s.write('{"v":1,"id":1,"method":"hello"}\\n');setTimeout(()=>s.end(),2000).unref()`
      execFile(process.execPath, ['-e', script], { uid, gid: uid, cwd: '/' }, (_error, stdout) => resolve(stdout))
    })
  chmodSync(dirname(path), 0o755)
  assert.match(await dial(65534), /EACCES/)
  chmodSync(path, 0o666) // the mode alone is not what it rests on
  const answer = await dial(65534)
  assert.match(answer, /NO_PERMISSION/)
  assert.doesNotMatch(answer, /hello/)
})

test('a deadline ends the wait, of the method and of the caller', async (t) => {
  const ends: unknown[] = []
  const { path } = await serve(t, { forever: { ...patient(ends), deadlineMs: 40 }, patient: patient(ends), deaf: method(() => new Promise(() => undefined)) })
  await assert.rejects(call(path, 'forever', { deadlineMs: 30 }), { code: 'TIMEOUT', message: /forever was not done within 30 ms/ })
  const client = new Raw(path)
  client.say('{"v":1,"id":1,"method":"forever"}\n{"v":1,"id":2,"method":"deaf","deadlineMs":30}\n')
  assert.deepEqual((await client.heard(2)).map((answer) => answer['error'].code), ['TIMEOUT', 'TIMEOUT'], 'also of one that does not listen to its signal')
  assert.equal(ends.length, 2)
  client.socket.destroy()
})

test('a cancel, a caller that leaves, and a stop end what runs', async (t) => {
  const ends: unknown[] = []
  let begun = 0
  const counted = patient(ends)
  const { path, server } = await serve(t, { patient: { ...counted, run: (...args) => (begun++, counted.run(...args)) } })
  const client = new Raw(path)
  client.say('{"v":1,"id":1,"method":"patient"}\n')
  await until(() => begun === 1)
  client.say('{"v":1,"id":1,"cancel":true}\n{"v":1,"id":9,"cancel":true}\n')
  assert.equal((await client.heard(1))[0]['error'].code, 'SHUTDOWN')
  client.say('{"v":1,"id":2,"method":"patient"}\n')
  await until(() => begun === 2)
  client.socket.destroy()
  await until(() => ends.length === 2)
  await assert.rejects(call(path, 'patient', { signal: AbortSignal.timeout(50) }), { name: 'TimeoutError' })
  await until(() => ends.length === 3)
  const last = call(path, 'patient')
  const refused = assert.rejects(last, { code: 'SHUTDOWN' })
  await until(() => begun === 4)
  await server[Symbol.asyncDispose]()
  await refused
})

test('nonsense is answered once and hung up on', async (t) => {
  const { path } = await serve(t, { hello: method(() => 'hello') }, { lineMs: 60, idleMs: 400 })
  for (const nonsense of ['GET / HTTP/1.1\r\n\r\n', '\n', '{"v":1}\n', Buffer.alloc(200, 0xff).toString('latin1') + '\n']) {
    const answers = await new Raw(path).say(nonsense).gone()
    assert.deepEqual(answers.map((answer) => [answer['id'], answer['error'].code]), [[null, 'PROTOCOL_VIOLATION']], nonsense)
  }
  const slow = await new Raw(path).say('{"v":1,').gone()
  assert.equal(slow[0]['error'].code, 'TIMEOUT', 'a request that does not end')
  assert.deepEqual(await new Raw(path).gone(), [], 'a connection that asks nothing')
  const long = await new Raw(path).say('x'.repeat(MAX_REQUEST_BYTES + 1)).gone()
  assert.equal(long[0]?.['error'].code ?? 'PROTOCOL_VIOLATION', 'PROTOCOL_VIOLATION')
  assert.equal(await call(path, 'hello'), 'hello')
})

test('connections and requests are bounded', async (t) => {
  const { path } = await serve(t, { patient: patient([]), hello: method(() => 'hello') }, { connections: 2, requests: 2 })
  const first = new Raw(path).say('{"v":1,"id":1,"method":"patient"}\n{"v":1,"id":2,"method":"patient"}\n{"v":1,"id":3,"method":"hello"}\n')
  assert.deepEqual((await first.heard(1)).map((answer) => [answer['id'], answer['error'].code]), [[3, 'TOO_MANY']])
  const second = new Raw(path).say('{"v":1,"id":1,"method":"hello"}\n')
  await second.heard(1)
  assert.equal((await new Raw(path).gone())[0]['error'].code, 'TOO_MANY')
  first.socket.destroy()
  second.socket.destroy()
  await until(async () => (await call(path, 'hello').catch(() => undefined)) === 'hello')
})

test('a client that does not read holds no memory and is cut off', async (t) => {
  let sent = 0
  let ended = false
  const { path } = await serve(
    t,
    {
      flood: method(async (_params, { send, signal }) => {
        const line = 'x'.repeat(10_000)
        try {
          for (; !signal.aborted; sent++) await send(line)
        } finally {
          ended = true
        }
      }, undefined),
    },
    { writeMs: 100 },
  )
  const client = connect(path)
  client.on('error', () => undefined)
  client.write('{"v":1,"id":1,"method":"flood"}\n')
  client.pause()
  await until(() => ended)
  assert.ok(sent < 500, `${sent} lines were held`)
  client.destroy()
})

test('20,000 mutated lines leave it serving', async (t) => {
  const { path } = await serve(t, { hello: method(() => 'hello') }, { connections: 8 })
  const seed = Date.now() % 1e9
  t.diagnostic(`seed ${seed}`)
  let state = seed
  const next = (below: number): number => (state = (state * 48271 + 11) % 2147483647) % below
  const good = Buffer.from('{"v":1,"id":7,"method":"hello","params":{},"deadlineMs":1000}\n')
  for (let round = 0; round < 40; round++) {
    const client = connect(path)
    client.on('error', () => undefined).resume()
    for (let i = 0; i < 500; i++) {
      const line = Buffer.from(good)
      for (let n = next(4); n > 0; n--) line[next(line.length)] = next(256)
      client.write(line)
    }
    client.end()
    await once(client, 'close')
  }
  assert.equal(await call(path, 'hello'), 'hello')
})

import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { QuicAddress } from '../../src/transport/quic.ts'
import { Random, testSeed } from '../support/random.ts'
import { createIdentities, dial, echo, listen, nextConnection, pattern, readBytes, writeAll, type Identities } from './quic-pair.ts'

const CHILD = fileURLToPath(new URL('quic-child.ts', import.meta.url))
const DATAGRAMS = 100_000
const MAX_GROWTH_BYTES = 48 * 1024 * 1024

let ids: Identities
before(async () => {
  ids = await createIdentities()
})

type Relay = { readonly address: QuicAddress; close(): void }

/** Stands between a client and a server; `pass` gets every datagram and sends what it likes in its place. */
async function relayTo(server: QuicAddress, pass: (bytes: Buffer, send: (bytes: Buffer) => void) => void): Promise<Relay> {
  const near = createSocket('udp4')
  const far = createSocket('udp4')
  near.bind(0, '127.0.0.1')
  far.bind(0, '127.0.0.1')
  await Promise.all([once(near, 'listening'), once(far, 'listening')])
  let client = 0
  let isOpen = true
  near.on('message', (bytes, { port }) => {
    client = port
    pass(bytes, (changed) => isOpen && far.send(changed, server.port, server.host))
  })
  far.on('message', (bytes) => pass(bytes, (changed) => isOpen && near.send(changed, client, '127.0.0.1')))
  return {
    address: { host: '127.0.0.1', port: near.address().port },
    close() {
      isOpen = false
      near.close()
      far.close()
    },
  }
}

/** Real datagrams of all kinds: Initial, Retry's answer, Handshake, 1-RTT, of both sides. */
async function capture(server: QuicAddress): Promise<Buffer[]> {
  const captured: Buffer[] = []
  const relay = await relayTo(server, (bytes, send) => {
    captured.push(Buffer.from(bytes))
    send(bytes)
  })
  const connection = await dial({ address: relay.address } as never, ids.client)
  const stream = connection.openStream()
  await writeAll(stream, pattern(50_000))
  stream.finish()
  await readBytes(stream)
  connection.close()
  relay.close()
  return captured
}

function mutate(random: Random, bytes: Buffer): Buffer {
  const changed = Buffer.from(bytes)
  switch (random.integer(0, 5)) {
    case 0:
      for (let flips = random.integer(1, 8); flips > 0; flips--) {
        changed[random.integer(0, changed.length - 1)]! ^= 1 << random.integer(0, 7)
      }
      return changed
    case 1:
      return changed.subarray(0, random.integer(0, changed.length))
    case 2:
      // The header is what is looked at before any key is needed.
      for (let at = 0; at < Math.min(40, changed.length); at++) if (random.chance(0.2)) changed[at] = random.integer(0, 255)
      return changed
    case 3:
      return Buffer.concat([changed, bytes]).subarray(0, 1500)
    case 4:
      changed[random.integer(0, Math.min(60, changed.length - 1))] = random.pick([0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xbf, 0xc0, 0xff])
      return changed
    default:
      return changed
  }
}

function garbage(random: Random, noise: Buffer): Buffer {
  const at = random.integer(0, noise.length - 1500)
  const bytes = Buffer.from(noise.subarray(at, at + random.integer(0, 1500)))
  if (bytes.length > 5 && random.chance(0.5)) {
    // A long header of version 1, or of some other version.
    bytes[0] = 0xc0 | random.integer(0, 63)
    bytes.writeUInt32BE(random.chance(0.7) ? 1 : random.integer(0, 2 ** 32 - 1), 1)
  }
  return bytes
}

/** Datagrams that the kernel has dropped for want of room: these would prove nothing. */
async function droppedAt(port: number): Promise<number> {
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, '0')}`
  const line = (await readFile('/proc/net/udp', 'utf8')).split('\n').find((text) => text.trim().split(/\s+/)[1]?.endsWith(wanted))
  return Number(line?.trim().split(/\s+/).at(-1) ?? 0)
}

test('random and mutated datagrams neither stop the server nor make it grow', { timeout: 60_000 }, async (t) => {
  t.diagnostic(`TEST_SEED=${testSeed}`)
  const random = new Random(testSeed)
  const child = fork(CHILD, ['listen', JSON.stringify({ server: ids.server, client: ids.client })], { execArgv: ['--expose-gc'] })
  try {
    const [{ address }] = (await once(child, 'message')) as [{ address: QuicAddress }]
    const ask = async (question: 'memory' | 'alive'): Promise<{ rss: number; open: number }> => {
      child.send(question)
      return ((await once(child, 'message')) as [{ rss: number; open: number }])[0]
    }
    const captured = await capture(address)
    const noise = random.bytes(256 * 1024)
    const sockets: Socket[] = []
    for (let number = 0; number < 20; number++) {
      const socket = createSocket('udp4')
      socket.on('message', () => {})
      socket.bind(0, '127.0.0.1')
      await once(socket, 'listening')
      sockets.push(socket)
    }
    const honest = await dial({ address } as never, ids.client)
    const send = async (count: number): Promise<void> => {
      for (let sent = 0; sent < count; sent++) {
        const bytes = random.chance(0.4) ? garbage(random, noise) : mutate(random, random.pick(captured))
        random.pick(sockets).send(bytes, address.port, address.host)
        // Its answer to a question shows that the server has come this far.
        if (sent % 250 === 249) await ask('alive')
      }
    }
    await send(DATAGRAMS / 10)
    const early = await ask('memory')
    await send((DATAGRAMS * 9) / 10)
    const late = await ask('memory')
    const dropped = await droppedAt(address.port)
    t.diagnostic(`resident ${early.rss >> 20} MiB after a tenth, ${late.rss >> 20} MiB at the end; ${dropped} dropped by the kernel`)
    assert.ok(dropped < DATAGRAMS / 10, `${dropped} datagrams never arrived`)
    assert.ok(late.rss - early.rss < MAX_GROWTH_BYTES, `grew by ${(late.rss - early.rss) >> 20} MiB`)

    // The connection from before and a new one both work.
    for (const connection of [honest, await dial({ address } as never, ids.client)]) {
      const stream = connection.openStream()
      await writeAll(stream, Buffer.from('still serving'))
      stream.finish()
      assert.equal((await readBytes(stream)).toString(), 'still serving')
      connection.close()
    }
    for (const socket of sockets) socket.close()
    assert.equal(child.exitCode, null)
  } finally {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
})

test('a path that corrupts, loses, doubles and reorders datagrams delivers the bytes all the same', { timeout: 60_000 }, async (t) => {
  t.diagnostic(`TEST_SEED=${testSeed}`)
  const random = new Random(testSeed)
  await using listener = await listen(ids.server)
  const accepted = nextConnection(listener)
  let held: Buffer | undefined
  const relay = await relayTo(listener.address, (bytes, send) => {
    if (random.chance(0.02)) return
    if (random.chance(0.02)) send(mutate(random, bytes))
    if (random.chance(0.02)) send(bytes)
    if (held === undefined && random.chance(0.02)) {
      held = Buffer.from(bytes)
      const later = held
      setImmediate(() => {
        held = undefined
        send(later)
      })
      return
    }
    send(bytes)
  })
  const client = await dial({ address: relay.address } as never, ids.client)
  echo(await accepted)
  const bytes = pattern(1024 * 1024)
  const stream = client.openStream()
  const back = readBytes(stream)
  await writeAll(stream, bytes)
  stream.finish()
  assert.ok((await back).equals(bytes))
  client.close()
  await listener.close()
  relay.close()
})

test('handshakes that are given up leave nothing behind', async () => {
  await using listener = await listen(ids.server, { handshakeTimeoutMs: 300, maxConnections: 4 })
  for (let number = 0; number < 60; number++) {
    const stop = new AbortController()
    const attempt = dial(listener, ids.client, { signal: stop.signal }).then(
      (connection) => connection.close(),
      () => {},
    )
    await new Promise((resolve) => setTimeout(resolve, number % 10))
    stop.abort()
    await attempt
  }
  const deadline = performance.now() + 5000
  for (let complete = false; !complete; ) {
    assert.ok(performance.now() < deadline, 'places stay taken')
    const attempts = await Promise.allSettled(Array.from({ length: 4 }, () => dial(listener, ids.client)))
    complete = attempts.every(({ status }) => status === 'fulfilled')
    for (const attempt of attempts) if (attempt.status === 'fulfilled') attempt.value.close()
  }
})

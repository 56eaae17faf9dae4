/**
 * A process of its own for the QUIC tests. First argument: what it does; second: JSON of credentials and addresses.
 * Tells its parent what happens by messages.
 */
import { quic } from '../../src/transport/openssl-quic.ts'
import type { Credentials, QuicAddress } from '../../src/transport/quic.ts'
import { ALPN, dial, echo, limits, listen, readBytes, writeAll } from './quic-pair.ts'

type Task = { readonly server: Credentials; readonly client: Credentials; readonly address?: QuicAddress; readonly idleTimeoutMs?: number }

const [, , what = '', json = '{}'] = process.argv
const task = JSON.parse(json) as Task

/** Without a parent's channel to keep it alive, unless it asks for one. */
function tell(message: unknown): void {
  process.send?.(message)
}

switch (what) {
  case 'listen': {
    const listener = await listen(task.server, { handshakeTimeoutMs: 1000, idleTimeoutMs: task.idleTimeoutMs ?? limits.idleTimeoutMs })
    let open = 0
    listener.onConnection = (connection) => {
      open++
      connection.onClosed = () => {
        open--
      }
      echo(connection)
    }
    process.on('message', (question) => {
      if (question === 'memory') globalThis.gc?.()
      tell({ rss: process.memoryUsage.rss(), open })
    })
    tell({ address: listener.address })
    break
  }
  case 'dial': {
    const connection = await quic.dial({
      address: task.address!,
      alpn: ALPN,
      credentials: task.client,
      idleTimeoutMs: 30_000,
      signal: AbortSignal.timeout(10_000),
    })
    const stream = connection.openStream()
    await writeAll(stream, Buffer.from('here'))
    await readBytes(stream, 4)
    tell({ connected: true })
    break
  }
  // Opens all there is. `close` closes it: the process must end by itself. `exit` does not: process.exit must end it.
  case 'close':
  case 'exit': {
    const listener = await listen(task.server)
    listener.onConnection = echo
    const connection = await dial(listener, task.client)
    const stream = connection.openStream()
    await writeAll(stream, Buffer.from('here'))
    await readBytes(stream, 4)
    if (what === 'exit') process.exit(7)
    connection.close()
    await listener.close()
    break
  }
  default:
    throw new Error(`unknown task ${what}`)
}

/**
 * The sink of one cluster: opens its folder, keeps the receiver running and answers over HTTPS, until it is told to stop.
 * Owns all of it, and closes it in the reverse order.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BeyondError } from './errors.ts'
import type { Logger } from './logger.ts'
import type { RoleMap } from './sink/http-role.ts'
import { serveSink, type ServerTls } from './sink/http-server.ts'
import type { AttachRequest } from './sink/sink.ts'
import { WalSink, type WalSinkOptions } from './sink/wal-sink.ts'

export type SinkServiceOptions = Omit<WalSinkOptions, 'logger'> & {
  readonly listen: { readonly host: string; readonly port: number }
  /** Holds server.crt, server.key and ca.crt. */
  readonly tlsDirectory: string
  readonly roles: RoleMap
  /** Attached at the start, if nobody has attached the sink before. */
  readonly primary: AttachRequest | undefined
}

/** Runs until `signal` aborts. Throws what no retry mends. */
export async function runSinkService(
  options: SinkServiceOptions,
  logger: Logger,
  signal: AbortSignal,
  onListening: (address: { readonly host: string; readonly port: number; readonly sinkId: string }) => void,
): Promise<void> {
  const { listen, roles, primary } = options
  const tls = await readTls(options.tlsDirectory)
  await using sink = await WalSink.open({ ...options, logger })
  await using server = await serveSink({ sink, host: listen.host, port: listen.port, tls, roles, log: logger.child({ part: 'https' }) })
  if (primary && sink.status().generation === 0n && sink.status().activity === 'idle') await sink.attach(primary)
  onListening({ host: listen.host, port: server.port, sinkId: sink.status().sinkId })
  await sink.run(signal)
}

async function readTls(directory: string): Promise<ServerTls> {
  const read = async (name: string) => {
    try {
      return await readFile(join(directory, name), 'utf8')
    } catch (cause) {
      throw new BeyondError('BAD_CERTIFICATE', `Can't read ${join(directory, name)}: ${(cause as Error).message}`, { cause })
    }
  }
  const [cert, key, ca] = await Promise.all([read('server.crt'), read('server.key'), read('ca.crt')])
  return { cert, key, ca }
}

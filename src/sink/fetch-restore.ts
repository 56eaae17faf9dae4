/** restore_command: one file, and an exit code that Postgres can't misread. */
import { setTimeout as sleep } from 'node:timers/promises'
import { backoffMs } from '../backoff.ts'
import { BeyondError, fromSystem } from '../errors.ts'
import type { ClientTls } from './fetch-client.ts'
import { fetchFromFetcher, moveInto } from './fetch-socket.ts'

/**
 * What Postgres makes of them: 0 a file; 1 to 125 "not in the archive", which ends recovery and opens the server with
 * what it has; above 125 FATAL, and nothing is lost.
 * Source: src/backend/access/transam/xlogarchive.c (RestoreArchivedFile)
 */
export const fetchExit = { file: 0, end: 1, failed: 200 } as const

export type RestoreOptions = {
  readonly name: string
  readonly destination: string
  /** Of the fetcher; asked first. */
  readonly socket?: string | undefined
  readonly sinks: readonly string[]
  readonly tls: ClientTls | undefined
  /** All of them, when it is not said. */
  readonly needed?: number | undefined
  readonly systemId?: bigint | undefined
  readonly deadlineMs: number
  readonly signal: AbortSignal
}

/** Throws whatever made it impossible, at the latest at the deadline. */
export async function restoreFile(options: RestoreOptions): Promise<'file' | 'end'> {
  const { name, destination, socket, sinks, deadlineMs, signal } = options
  const startedAt = performance.now()
  const left = (): number => Math.max(0, Math.ceil(deadlineMs - (performance.now() - startedAt)))
  let failure: unknown
  if (socket !== undefined)
    for (let attempt = 1; left() > 0; attempt++) {
      try {
        return await fetchFromFetcher(socket, name, destination, { deadlineMs: left(), signal })
      } catch (error) {
        signal.throwIfAborted()
        failure = error
      }
      // Without a fetcher the way to the sinks is longer, and the same.
      if (sinks.length > 0) break
      await sleep(Math.min(left(), backoffMs(attempt, Math.random(), { minMs: 100, maxMs: 2_000 })), undefined, { signal })
    }
  if (sinks.length === 0) throw failure ?? new BeyondError('BAD_ARGUMENT', 'There is neither a fetcher nor a sink to ask: give --socket or --sink.')
  if (options.tls === undefined) throw new BeyondError('BAD_ARGUMENT', 'Sinks are asked with --ca, --cert and --key.')
  return direct({ ...options, tls: options.tls }, left())
}

/** Loaded when it is needed: the fetcher's client does without an HTTP client. */
async function direct({ name, destination, sinks, tls, needed = sinks.length, systemId, signal }: RestoreOptions & { readonly tls: ClientTls }, deadlineMs: number): Promise<'file' | 'end'> {
  const [{ SinkClient }, { fetchUntil }] = await Promise.all([import('./fetch-client.ts'), import('./fetch-object.ts')])
  await using clients = new AsyncDisposableStack()
  const source = { sinks: sinks.map((url) => clients.use(new SinkClient({ url, tls }))), needed, systemId }
  try {
    const verdict = await fetchUntil(source, name, `${destination}.fetch-${process.pid}-`, { deadlineMs, signal })
    if (verdict.kind === 'end') return 'end'
    await moveInto(verdict.path, destination)
    return 'file'
  } catch (error) {
    throw fromSystem(error, `fetching ${name}`)
  }
}

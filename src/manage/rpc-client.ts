/** Asks a box on this machine over its management socket. One connection per question: they are few, and cheap. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { basename, dirname } from 'node:path'
import { BeyondError, fromSystem } from '../errors.ts'
import { decodeAnswer, encodeRequest, LineReader, MAX_ANSWER_BYTES, type Params } from './rpc-protocol.ts'
import { openFolder } from './rpc-socket.ts'

export { socketPath } from './rpc-socket.ts'

export type CallOptions = {
  readonly params?: Params
  /** For the box: it gives up then and says so. Its own default otherwise. Milliseconds. */
  readonly deadlineMs?: number
  readonly signal?: AbortSignal
}

/** A box that runs accepts and begins to answer at once; one that is stopped (SIGSTOP) or in trouble does not. */
const CONNECT_MS = 5_000
/** The box keeps its deadlines; this is for one that doesn't answer at all. */
const GRACE_MS = 5_000
const LONGEST_DEFAULT_MS = 120_000

/** The result. Throws what the box says, UNREACHABLE when none answers, TIMEOUT, or the signal's reason. */
export async function call(path: string, method: string, options: CallOptions = {}): Promise<unknown> {
  const answers = stream(path, method, { ...options, deadlineMs: options.deadlineMs ?? LONGEST_DEFAULT_MS })
  for (;;) {
    const { done, value } = await answers.next()
    if (done) return value
  }
}

/** The items as they come; the generator's return value is the result. Leaving the loop cancels the request. */
export async function* stream(path: string, method: string, { params = {}, deadlineMs, signal }: CallOptions = {}): AsyncGenerator<unknown, unknown, void> {
  signal?.throwIfAborted()
  const patience = deadlineMs === undefined ? undefined : AbortSignal.timeout(deadlineMs + GRACE_MS)
  const over = AbortSignal.any([signal, patience].filter((each) => each !== undefined))
  const socket = await dial(path, over)
  const onAbort = (): void => void socket.destroy()
  over.addEventListener('abort', onAbort, { once: true })
  try {
    socket.write(encodeRequest(1, method, params, deadlineMs))
    const lines = new LineReader(MAX_ANSWER_BYTES)
    for await (const chunk of socket) {
      for (const line of lines.push(chunk as Buffer)) {
        const answer = decodeAnswer(line)
        if (answer.kind === 'error') throw answer.error
        if (answer.kind === 'result') return answer.value
        yield answer.value
      }
    }
    signal?.throwIfAborted()
    if (patience?.aborted) throw new BeyondError('TIMEOUT', `The box did not answer within ${deadlineMs} ms.`)
    throw new BeyondError('UNREACHABLE', 'The box ended the connection before it had answered.')
  } catch (error) {
    signal?.throwIfAborted()
    throw error instanceof BeyondError ? error : unreachable(path, error)
  } finally {
    over.removeEventListener('abort', onAbort)
    socket.destroy()
  }
}

async function dial(path: string, over: AbortSignal): Promise<Socket> {
  try {
    using folder = openFolder(dirname(path))
    const socket = connect(folder.below(basename(path)))
    socket.on('error', () => undefined)
    const patience = AbortSignal.timeout(CONNECT_MS)
    try {
      await once(socket, 'connect', { signal: AbortSignal.any([over, patience]) })
    } catch (error) {
      socket.destroy()
      throw error
    }
    return socket
  } catch (error) {
    throw unreachable(path, error)
  }
}

function unreachable(path: string, error: unknown): Error {
  const { code, name } = error as NodeJS.ErrnoException
  if (code === 'EACCES' || code === 'EPERM') return fromSystem(Object.assign(error as Error, { path }), 'talking to the box')
  const gone = code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'ENOTDIR'
  if (!gone && name !== 'AbortError' && name !== 'TimeoutError') return new BeyondError('UNREACHABLE', `The box does not answer: ${(error as Error).message}.`, { cause: error })
  const data = dirname(dirname(path))
  const sentence = gone
    ? `No box runs on ${data}: start one with npm start, or name its directory with --data.`
    : `The box on ${data} does not answer: its log says more.`
  return new BeyondError('UNREACHABLE', sentence, { cause: error, facts: { path } })
}

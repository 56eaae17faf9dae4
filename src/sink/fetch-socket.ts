/** Asks the fetcher on this machine for one file. Small, since it is loaded anew for each file that is not ready yet. */
import { copyFile, rename, rm } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { BeyondError } from '../errors.ts'

export const MAX_LINE_BYTES = 65_536

export type FetcherAnswer =
  | { readonly result: 'file'; readonly path: string }
  | { readonly result: 'end' }
  | { readonly result: 'failed'; readonly message: string }

/** The file is at `destination`, or WAL ends before it. Throws UNREACHABLE, TIMEOUT, or INTERNAL for what the fetcher says. */
export async function fetchFromFetcher(socketPath: string, name: string, destination: string, { deadlineMs, signal }: { deadlineMs: number; signal: AbortSignal }): Promise<'file' | 'end'> {
  const late = AbortSignal.timeout(deadlineMs)
  const socket = connect(socketPath)
  const onOver = (): void => void socket.destroy()
  const over = AbortSignal.any([signal, late])
  over.addEventListener('abort', onOver, { once: true })
  try {
    socket.write(`${JSON.stringify({ name })}\n`)
    const answer = JSON.parse(await readAnswer(socket)) as FetcherAnswer
    if (answer.result === 'failed') throw new BeyondError('UNREACHABLE', answer.message)
    if (answer.result === 'end') return 'end'
    if (answer.result !== 'file' || typeof answer.path !== 'string') throw new BeyondError('INTERNAL', 'The fetcher gave no answer.')
    // Before the connection ends: the fetcher removes then what was not taken.
    await moveInto(answer.path, destination)
    return 'file'
  } catch (error) {
    signal.throwIfAborted()
    if (late.aborted) throw new BeyondError('TIMEOUT', `The fetcher did not answer within ${deadlineMs / 1000} s.`, { cause: error })
    throw error instanceof BeyondError ? error : new BeyondError('UNREACHABLE', `The fetcher at ${socketPath} does not answer: ${(error as Error).message}.`, { cause: error })
  } finally {
    over.removeEventListener('abort', onOver)
    socket.destroy()
  }
}

/** By events: a loop over the socket would end the connection with the answer. */
function readAnswer(socket: Socket): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  let text = ''
  socket.setEncoding('utf8').on('data', (piece: string) => {
    text += piece
    if (text.includes('\n')) resolve(text.slice(0, text.indexOf('\n')))
    else if (text.length > MAX_LINE_BYTES) reject(new Error('its answer is too long'))
  })
  socket.once('error', reject)
  socket.once('close', () => reject(new Error('it ended without an answer')))
  return promise
}

/** Whole or not at all, also across file systems. */
export async function moveInto(from: string, destination: string): Promise<void> {
  try {
    await rename(from, destination)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EXDEV') throw error
    const beside = `${destination}.fetch-${process.pid}`
    try {
      await copyFile(from, beside)
      await rename(beside, destination)
    } finally {
      await rm(beside, { force: true })
    }
    await rm(from, { force: true })
  }
}

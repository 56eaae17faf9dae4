/** Asks a server for its status: one stream, one frame there, one frame back. */
import { BeyondError } from '../errors.ts'
import type { ClientDialer } from './client-dialer.ts'
import { errorFromEnd } from './client-session.ts'
import { ClientStream } from './client-stream.ts'
import { envelopes, type Status } from './envelopes.ts'
import { encodeFrame, FrameReader, frameType, PROTOCOL_VERSION } from './frame.ts'

/** A status names every subscriber; more than this is no status. */
const MAX_STATUS_BYTES = 64 * 1024 * 1024
const READ_BYTES = 64 * 1024

/** Rejects with what the dialer or the server says, TIMEOUT, or the signal's reason. */
export async function requestStatus(
  dialer: ClientDialer,
  options: { readonly timeoutMs: number; readonly signal?: AbortSignal | undefined },
): Promise<Status> {
  const deadline = AbortSignal.timeout(options.timeoutMs)
  const signal = options.signal ? AbortSignal.any([options.signal, deadline]) : deadline
  const late = () => new BeyondError('TIMEOUT', `No status from ${dialer.server} within ${options.timeoutMs} ms.`)
  const connection = await dialer.acquire(signal).catch((error: unknown) => {
    throw deadline.aborted && !(error instanceof BeyondError) ? late() : error
  })
  const stream = new ClientStream(connection.openStream())
  try {
    stream.send(encodeFrame(frameType.statusRequest, envelopes.statusRequest.encode({ version: PROTOCOL_VERSION })))
    stream.finish()
    const frames = new FrameReader(MAX_STATUS_BYTES)
    const into = Buffer.allocUnsafe(READ_BYTES)
    let status: Status | undefined
    for (;;) {
      const count = stream.read(into)
      if (count === -1) throw dialer.lossError()
      frames.push(into.subarray(0, count), (frame) => {
        if (frame.type === frameType.end) throw errorFromEnd(envelopes.end.decode(frame.body))
        if (frame.type !== frameType.status || status)
          throw new BeyondError('PROTOCOL_VIOLATION', `The server answered a status request with a frame of type ${frame.type}.`)
        status = envelopes.status.decode(frame.body)
      })
      if (status) return status
      if (count > 0) continue
      const waited = await stream.wait(options.timeoutMs, signal)
      if (waited === 'closed') throw dialer.lossError()
      if (options.signal?.aborted) throw options.signal.reason
      if (waited !== 'readable') throw late()
    }
  } finally {
    stream.reset(0n)
  }
}

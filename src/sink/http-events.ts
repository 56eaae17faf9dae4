/**
 * Progress as it happens, as server-sent events. A slow reader misses steps, never the latest one, and costs the memory
 * of one event.
 * Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
 */
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Exchange, HttpLimits } from './http-exchange.ts'
import { progressJson } from './http-json.ts'
import type { Sink, SinkProgress } from './sink.ts'

/** Until the client is gone. */
export async function serveEvents({ request, response, gone }: Exchange, sink: Sink, limits: HttpLimits): Promise<void> {
  response.setHeader('content-type', 'text/event-stream; charset=utf-8')
  response.setHeader('cache-control', 'no-store')
  if (request.method === 'HEAD') return void response.end()
  let latest: SinkProgress | undefined = sink.status()
  let wake = Promise.withResolvers<void>()
  const stop = sink.onProgress((progress) => {
    latest = progress
    wake.resolve()
  })
  try {
    while (!gone.aborted) {
      const text: string = latest ? `event: progress\ndata: ${JSON.stringify(progressJson(latest))}\n\n` : ': still here\n\n'
      latest = undefined
      wake = Promise.withResolvers()
      if (!response.write(text)) await once(response, 'drain', { signal: AbortSignal.any([gone, AbortSignal.timeout(limits.stallMs)]) })
      const rest = new AbortController()
      if (!latest) await Promise.race([wake.promise, sleep(limits.heartbeatMs, undefined, { signal: AbortSignal.any([gone, rest.signal]) })]).finally(() => rest.abort())
    }
  } catch {
    // Gone, or too slow: either way there is nobody to tell.
  } finally {
    stop()
    response.destroy()
  }
}

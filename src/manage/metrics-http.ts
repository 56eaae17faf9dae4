/** Metrics over HTTP, on loopback only, for a Prometheus or an agent on this machine. One look at the box at a time. */
import { createServer } from 'node:http'
import { once } from 'node:events'
import { BeyondError } from '../errors.ts'
import { CONTENT_TYPE } from './metrics-text.ts'

const HOST = '127.0.0.1'
const LOOK_MS = 10_000
const MAX_CONNECTIONS = 16

export type MetricsServer = AsyncDisposable & { readonly port: number }

/** Answers GET /metrics. `look` is shared by those who ask at the same time. Throws PORT_IN_USE. */
export async function serveMetrics(port: number, look: (signal: AbortSignal) => Promise<string>): Promise<MetricsServer> {
  let looking: Promise<string> | undefined
  const server = createServer({ requestTimeout: 5_000, headersTimeout: 5_000, keepAliveTimeout: 5_000, maxHeaderSize: 8_192 }, (request, response) => {
    const answer = (status: number, text: string, type = 'text/plain; charset=utf-8'): void => {
      response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' }).end(text)
    }
    request.resume() // whatever it carries is not for us
    // A page in a browser on this machine could be led here by a name that points to loopback.
    if (!isLocalName(request.headers.host)) return answer(403, 'Ask by the name localhost or by address.\n')
    if (request.url?.split('?')[0] !== '/metrics') return answer(404, 'There is only /metrics here.\n')
    if (request.method !== 'GET' && request.method !== 'HEAD') return answer(405, 'Only GET is answered.\n')
    looking ??= look(AbortSignal.timeout(LOOK_MS)).finally(() => (looking = undefined))
    looking.then(
      (text) => answer(200, text, CONTENT_TYPE),
      () => answer(503, 'The box could not be looked at.\n'),
    )
  })
  server.maxConnections = MAX_CONNECTIONS
  server.listen({ host: HOST, port, exclusive: true })
  try {
    await once(server, 'listening')
  } catch (error) {
    throw new BeyondError('PORT_IN_USE', `Port ${port} of ${HOST}, meant for metrics, can't be had: choose another one with --metrics-port.`, { cause: error, facts: { port } })
  }
  return {
    port: (server.address() as { port: number }).port,
    [Symbol.asyncDispose]: async () => {
      server.close()
      server.closeAllConnections()
    },
  }
}

function isLocalName(host: string | undefined): boolean {
  return host === undefined || /^(localhost|127\.0\.0\.1)(:\d{1,5})?$/.test(host)
}

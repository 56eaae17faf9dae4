/**
 * A metadata service as a microVM has it, version 1 or 2, with faults on demand.
 * Source: https://github.com/firecracker-microvm/firecracker/blob/main/docs/mmds/mmds-user-guide.md
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'

/** What one request meets instead of its answer. */
export type Fault = 'refuse' | 'silence' | 'half' | 'garbage' | 'huge' | 'redirect' | 'array' | number

export type MmdsOptions = {
  readonly version: 1 | 2
  /** The whole tree. */
  tree: unknown
  /** Taken one per token request, and one per read; when they are used up all is well. */
  readonly tokenFaults?: Fault[]
  readonly readFaults?: Fault[]
}

export type Mmds = AsyncDisposable & {
  readonly address: string
  readonly options: MmdsOptions
  /** `PUT /latest/api/token`, `GET /`, in their order. */
  readonly requests: readonly string[]
  /** All tokens stop to be valid, as after a restart of the service. */
  forgetTokens(): void
}

export async function startMmds(options: MmdsOptions): Promise<Mmds> {
  const tokens = new Set<string>()
  const requests: string[] = []
  const server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url}`)
    const isToken = request.method === 'PUT'
    const fault = (isToken ? options.tokenFaults : options.readFaults)?.shift()
    if (fault !== undefined) commit(fault, response)
    else if (isToken) giveToken(request, response)
    else giveTree(request, response)
  })

  function giveToken(request: IncomingMessage, response: ServerResponse): void {
    const seconds = Number(request.headers['x-metadata-token-ttl-seconds'])
    if (options.version === 1) return void response.writeHead(405, { allow: 'GET' }).end('Not allowed HTTP method.')
    if (request.url !== '/latest/api/token' || !(seconds >= 1 && seconds <= 21_600)) return void response.writeHead(400).end('Invalid time to live')
    const token = `token-${tokens.size + 1}-${'x'.repeat(40)}=`
    tokens.add(token)
    response.writeHead(200, { 'x-metadata-token-ttl-seconds': String(seconds) }).end(token)
  }

  function giveTree(request: IncomingMessage, response: ServerResponse): void {
    const token = request.headers['x-metadata-token']
    if (options.version === 2 && !tokens.has(String(token))) return void response.writeHead(401).end('MMDS token not valid.')
    if (request.headers.accept !== 'application/json') return void response.writeHead(200).end('latest/')
    if (options.tree === undefined) return void response.writeHead(404).end('Resource not found')
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(options.tree))
  }

  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    address: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    options,
    requests,
    forgetTokens: () => tokens.clear(),
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

function commit(fault: Fault, response: ServerResponse): void {
  if (typeof fault === 'number') return void response.writeHead(fault).end('no')
  switch (fault) {
    case 'refuse':
      return void response.destroy()
    case 'silence':
      return
    case 'half':
      response.writeHead(200, { 'content-length': '1000' }).write('{"latest":{')
      return void setTimeout(() => response.destroy(), 10)
    case 'garbage':
      return void response.writeHead(200).end('<html>it works</html>')
    case 'array':
      return void response.writeHead(200).end('["BEYOND_PG_TIER"]')
    case 'huge':
      return void response.writeHead(200).end('x'.repeat(3 * 1024 * 1024))
    case 'redirect':
      return void response.writeHead(302, { location: 'http://127.0.0.1:1/' }).end()
  }
}

/** A served fake sink with real certificates, and a client of either protocol for it. */
import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { request as requestHttps } from 'node:https'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import pino from 'pino'
import type { HttpLimits } from '../../src/sink/http-exchange.ts'
import { parseRoles } from '../../src/sink/http-role.ts'
import { serveSink, type SinkServer } from '../../src/sink/http-server.ts'
import type { Sink } from '../../src/sink/sink.ts'
import { createAuthority, type Authority, type Identity } from '../support/certificates.ts'

export const quiet = pino({ level: 'silent' })

export type Answer = { readonly status: number; readonly headers: Record<string, string>; readonly body: Buffer }
export type Ask = { readonly method?: string; readonly headers?: Record<string, string>; readonly body?: string | Buffer; readonly as?: keyof Identities; readonly http2?: boolean }
export type Identities = { readonly reader: Identity; readonly box: Identity; readonly admin: Identity }
export type Served = AsyncDisposable & { readonly server: SinkServer; readonly authority: Authority; readonly identities: Identities; readonly serverIdentity: Identity; ask(path: string, options?: Ask): Promise<Answer>; raw(): Promise<TLSSocket> }

export async function identitiesOf(authority: Authority): Promise<Identities> {
  const issue = (name: string): Promise<Identity> => authority.issue({ name, use: 'client' })
  return { reader: await issue('reader'), box: await issue('box1'), admin: await issue('admin') }
}

export async function served(sink: Sink, limits: Partial<HttpLimits> = {}): Promise<Served> {
  const authority = await createAuthority()
  const serverIdentity = await authority.issue({ name: 'sink', use: 'server', hosts: ['localhost', '127.0.0.1'] })
  const identities = await identitiesOf(authority)
  const roles = parseRoles(['box1=seal', 'admin=admin'])
  const server = await serveSink({ sink, host: '127.0.0.1', port: 0, tls: { ...serverIdentity, ca: authority.cert }, roles, limits, log: quiet })
  const base = { host: '127.0.0.1', port: server.port, ca: authority.cert }
  return {
    server,
    authority,
    identities,
    serverIdentity,
    ask: (path, options = {}) => (options.http2 ? askHttp2 : askHttp1)({ ...base, ...identities[options.as ?? 'reader'] }, path, options),
    async raw() {
      const socket = connectTls({ ...base, ...identities.reader, ALPNProtocols: ['http/1.1'] })
      socket.on('error', () => undefined)
      await once(socket, 'secureConnect')
      return socket
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
}

type Target = { readonly host: string; readonly port: number; readonly ca: string } & Identity

async function askHttp1(target: Target, path: string, { method = 'GET', headers = {}, body }: Ask): Promise<Answer> {
  const request = requestHttps({ ...target, path, method, headers, agent: false })
  request.end(body)
  const [response] = await once(request, 'response')
  const pieces: Buffer[] = []
  for await (const piece of response) pieces.push(piece)
  return { status: response.statusCode, headers: response.headers, body: Buffer.concat(pieces) }
}

async function askHttp2({ host, port, ...tls }: Target, path: string, { method = 'GET', headers = {}, body }: Ask): Promise<Answer> {
  const session = connectHttp2(`https://${host}:${port}`, tls)
  session.on('error', () => undefined)
  try {
    const stream = session.request({ ':path': path, ':method': method, ...headers })
    stream.end(body)
    const [answer] = await once(stream, 'response')
    const pieces: Buffer[] = []
    for await (const piece of stream) pieces.push(piece)
    return { status: answer[':status'], headers: answer, body: Buffer.concat(pieces) }
  } finally {
    session.destroy()
  }
}

export const json = (answer: Answer): any => JSON.parse(answer.body.toString())

/**
 * Reads the metadata service of a microVM (MMDS, version 1 or 2) until it has answered or the time is over. There is no answer that
 * stands for "no settings": a service that is missing is an error, since defaults would turn a replica into a second primary.
 * Source: https://github.com/firecracker-microvm/firecracker/blob/main/docs/mmds/mmds-user-guide.md
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { backoffMs } from '../backoff.ts'
import { BeyondError } from '../errors.ts'

export const METADATA_ADDRESS = 'http://169.254.169.254/'

export type MetadataOptions = {
  readonly address?: string
  readonly signal: AbortSignal
  /** Milliseconds over all attempts. */
  readonly patienceMs?: number
  /** Milliseconds for one request. */
  readonly requestMs?: number
  /** In [0, 1). */
  readonly random?: () => number
}

const PATIENCE_MS = 30_000
const REQUEST_MS = 2_000
const RETRY = { minMs: 50, maxMs: 2_000 }
/** The service itself holds 50 kB unless told otherwise. */
const LARGEST_BODY = 1024 * 1024
const TOKEN_SECONDS = 60

type Answer = { readonly status: number; readonly body: string }

/** The whole tree as JSON. Throws UNREACHABLE when the service has given none in time. */
export async function readMetadata({ address = METADATA_ADDRESS, signal, patienceMs = PATIENCE_MS, requestMs = REQUEST_MS, random = Math.random }: MetadataOptions): Promise<unknown> {
  const deadline = performance.now() + patienceMs
  const send = (method: 'GET' | 'PUT', path: string, headers: Record<string, string>): Promise<Answer> =>
    exchange(new URL(path, address), method, headers, AbortSignal.any([signal, AbortSignal.timeout(requestMs)]))
  for (let attempt = 1; ; attempt++) {
    let problem: string
    try {
      const token = await takeToken(send)
      const { status, body } = await send('GET', '', { accept: 'application/json', ...(token === undefined ? {} : { 'x-metadata-token': token }) })
      if (status === 200) return parseTree(body)
      problem = `it answers ${status}` // 401: the token ran out or the service restarted; 404: not filled yet; 5xx: unwell
    } catch (error) {
      signal.throwIfAborted()
      problem = (error as Error).message
    }
    const wait = backoffMs(attempt, random(), RETRY)
    if (performance.now() + wait >= deadline) {
      throw new BeyondError('UNREACHABLE', `The metadata service at ${address} gives no settings (${problem}): without them this box does not start.`, {
        facts: { address, attempts: attempt },
      })
    }
    await sleep(wait, undefined, { signal })
  }
}

/** Undefined: the service is of version 1, which knows no tokens. */
async function takeToken(send: (method: 'PUT', path: string, headers: Record<string, string>) => Promise<Answer>): Promise<string | undefined> {
  const { status, body } = await send('PUT', 'latest/api/token', { 'x-metadata-token-ttl-seconds': String(TOKEN_SECONDS) })
  const token = body.trim()
  if (status === 200 && /^[\x21-\x7e]{1,4096}$/.test(token)) return token
  if (status === 404 || status === 405) return undefined
  throw new Error(`it answers ${status} instead of a token`)
}

function parseTree(body: string): unknown {
  try {
    const tree: unknown = JSON.parse(body)
    if (typeof tree === 'object' && tree !== null && !Array.isArray(tree)) return tree
  } catch {
    // said below
  }
  throw new Error('its answer is not a JSON object')
}

async function exchange(url: URL, method: string, headers: Record<string, string>, signal: AbortSignal): Promise<Answer> {
  const { request } = await import('node:http') // 7 MB, which most machines have no use for
  return new Promise((resolve, reject) => {
    // No agent: no connection outlives its exchange. node:http follows no redirect and knows no proxy.
    const sent = request(url, { method, headers, signal, agent: false }, (response) => {
      let body = ''
      response.setEncoding('utf8')
      response.on('data', (text: string) => {
        body += text
        if (body.length > LARGEST_BODY) sent.destroy(new Error('its answer is too large'))
      })
      response.on('end', () => (response.complete ? resolve({ status: response.statusCode ?? 0, body }) : reject(new Error('its answer was cut off'))))
      response.on('error', reject)
    })
    sent.on('error', (error) => reject(signal.aborted ? new Error('it does not answer', { cause: error }) : error))
    sent.end()
  })
}

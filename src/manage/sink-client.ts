/** What a box asks of a sink over HTTPS: its state, a seal, an attach, and what it keeps. docs/sink-api.md says what there is. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { Agent, request } from 'node:https'
import { BeyondError, codes, type ErrorCode } from '../errors.ts'
import { type Lsn, lsnFromServer } from '../wal/lsn.ts'
import type { Timeline } from '../wal/timeline.ts'
import type { Claim, SealedEnd } from './recovery-plan.ts'

export type SinkTls = { readonly ca: string; readonly cert: string; readonly key: string }

export type SinkLook = {
  readonly sinkId: string
  readonly name: string
  readonly activity: string
  readonly problem: { readonly code: string; readonly message: string } | undefined
  readonly systemId: bigint | undefined
  /** Of the primary that it took WAL from last; 0 for none. */
  readonly generation: bigint
  readonly seal: Claim | undefined
  /** How far it has confirmed; it may go on while it is not sealed. */
  readonly flushed: SealedEnd | undefined
}

export type ListedSegment = { readonly name: string; readonly end: Lsn; readonly bytes: number; readonly sha256: string | undefined }
export type ListedHistory = { readonly name: string; readonly timeline: Timeline; readonly sha256: string }

type PositionJson = { readonly timeline: Timeline; readonly lsn: string; readonly lastRecord?: string }

/** A seal waits for the receiver to end and reads the last segment. */
const SEAL_MS = 60_000
const ASK_MS = 10_000
const SEGMENT_MS = 120_000
const JSON_MOST = 8 * 1024 * 1024

export class SinkClient implements Disposable {
  readonly url: string
  readonly #agent: Agent

  constructor(url: string, tls: SinkTls) {
    this.url = url
    this.#agent = new Agent({ ...tls, keepAlive: true, maxSockets: 4, minVersion: 'TLSv1.3' })
  }

  [Symbol.dispose](): void {
    this.#agent.destroy()
  }

  async look(signal: AbortSignal): Promise<SinkLook> {
    const status = (await this.#json('GET', '/v1/status', undefined, ASK_MS, signal)) as {
      sinkId: string
      name: string
      activity: string
      problem?: { code: string; message: string }
      systemId?: string
      generation: string
      seal?: { generation: string; by: string }
      flushed?: PositionJson
    }
    const { seal } = status
    return {
      sinkId: status.sinkId,
      name: status.name,
      activity: status.activity,
      problem: status.problem,
      systemId: status.systemId === undefined ? undefined : BigInt(status.systemId),
      generation: BigInt(status.generation),
      seal: seal && { generation: BigInt(seal.generation), by: seal.by },
      flushed: endOf(status.flushed),
    }
  }

  /** Where its WAL ends; undefined where it never held any. */
  async seal(claim: Claim, signal: AbortSignal): Promise<SealedEnd | undefined> {
    const { position } = (await this.#json('POST', '/v1/seal', { generation: String(claim.generation), by: claim.by }, SEAL_MS, signal)) as { position?: PositionJson }
    return endOf(position)
  }

  async attach(claim: Claim, conninfo: Readonly<Record<string, string>>, signal: AbortSignal): Promise<void> {
    await this.#json('POST', '/v1/attach', { generation: String(claim.generation), by: claim.by, conninfo }, ASK_MS, signal)
  }

  async segments(signal: AbortSignal): Promise<readonly ListedSegment[]> {
    const all: ListedSegment[] = []
    for (let after: string | undefined = ''; after !== undefined; ) {
      const page = (await this.#json('GET', `/v1/segments?after=${after}`, undefined, ASK_MS, signal)) as {
        segments: { name: string; end: string; bytes: number; sha256?: string }[]
        next?: string
      }
      for (const { name, end, bytes, sha256 } of page.segments) all.push({ name, end: lsnFromServer(end), bytes, sha256 })
      after = page.next
    }
    return all
  }

  async histories(signal: AbortSignal): Promise<readonly ListedHistory[]> {
    return ((await this.#json('GET', '/v1/histories', undefined, ASK_MS, signal)) as { histories: ListedHistory[] }).histories
  }

  history(name: string, signal: AbortSignal): Promise<Buffer> {
    return this.#object(`/v1/histories/${name}`, ASK_MS, JSON_MOST, signal)
  }

  segment(name: string, bytes: number, signal: AbortSignal): Promise<Buffer> {
    return this.#object(`/v1/segments/${name}`, SEGMENT_MS, bytes, signal)
  }

  /** A whole object, of the length and the checksum that it was sent with. */
  async #object(path: string, withinMs: number, most: number, signal: AbortSignal): Promise<Buffer> {
    const { response, body } = await this.#exchange('GET', path, undefined, withinMs, most, signal)
    const { 'content-length': length, 'beyond-sha256': sha256 } = response.headers
    const isWhole = length !== undefined && Number(length) === body.length
    const isRight = sha256 === undefined || createHash('sha256').update(body).digest('hex') === sha256
    if (isWhole && isRight) return body
    throw new BeyondError('UNREACHABLE', `The sink ${this.url} sent ${path} cut off or damaged.`)
  }

  async #json(method: string, path: string, body: unknown, withinMs: number, signal: AbortSignal): Promise<unknown> {
    const { body: text } = await this.#exchange(method, path, body, withinMs, JSON_MOST, signal)
    return parseJson(text) ?? {}
  }

  async #exchange(method: string, path: string, body: unknown, withinMs: number, most: number, signal: AbortSignal): Promise<{ response: IncomingMessage; body: Buffer }> {
    signal.throwIfAborted()
    const enough = AbortSignal.any([signal, AbortSignal.timeout(withinMs)])
    try {
      const text = body === undefined ? undefined : JSON.stringify(body)
      const headers = text === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }
      const asked = request(new URL(path, this.url), { method, agent: this.#agent, headers, signal: enough })
      asked.end(text)
      const [response] = (await once(asked, 'response', { signal: enough })) as [IncomingMessage]
      const answer = await readAll(response, most)
      if (response.statusCode === 200) return { response, body: answer }
      throw this.#refusal(response.statusCode ?? 0, answer)
    } catch (error) {
      signal.throwIfAborted()
      if (error instanceof BeyondError) throw error
      throw new BeyondError('UNREACHABLE', `The sink ${this.url} can't be reached: ${enough.aborted ? `no answer within ${withinMs} ms` : (error as Error).message}.`, { cause: error })
    }
  }

  #refusal(status: number, body: Buffer): BeyondError {
    const { code, message } = ((parseJson(body) as { error?: { code?: string; message?: string } } | undefined)?.error ?? {}) as { code?: string; message?: string }
    const known = code !== undefined && Object.hasOwn(codes, code) ? (code as ErrorCode) : 'UNREACHABLE'
    return new BeyondError(known, `The sink ${this.url} says: ${message ?? `status ${status}`}`)
  }
}

function endOf(position: PositionJson | undefined): SealedEnd | undefined {
  return position && { timeline: position.timeline, lsn: lsnFromServer(position.lsn), lastRecord: position.lastRecord === undefined ? undefined : lsnFromServer(position.lastRecord) }
}

async function readAll(response: IncomingMessage, most: number): Promise<Buffer> {
  const pieces: Buffer[] = []
  let bytes = 0
  for await (const piece of response as AsyncIterable<Buffer>) {
    bytes += piece.length
    if (bytes > most) throw new Error(`the answer is longer than ${most} bytes`)
    pieces.push(piece)
  }
  return Buffer.concat(pieces)
}

function parseJson(text: Buffer): unknown {
  try {
    return JSON.parse(text.toString('utf8'))
  } catch {
    return undefined
  }
}

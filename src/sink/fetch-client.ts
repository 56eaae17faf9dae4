/** Asks one sink over HTTPS, and keeps connections to it. What is fetched lands in a file, checked; what is wrong is an answer too. */
import { createHash } from 'node:crypto'
import { open, rm } from 'node:fs/promises'
import { pipeline } from 'node:stream/promises'
import type { Readable } from 'node:stream'
import { createZstdDecompress } from 'node:zlib'
import { Agent, type Dispatcher } from 'undici'
import { writeAll } from '../durable-file.ts'
import { BeyondError, codes, type ErrorCode } from '../errors.ts'
import { parseLsn, type Lsn } from '../wal/lsn.ts'
import { toTimeline } from '../wal/timeline.ts'
import { parseSegmentFileName, segmentStart } from '../wal/segment-name.ts'
import { WalScanner } from '../wal/wal-scanner.ts'
import { corrupt, SegmentCheck, segmentBytesOf } from './fetch-check.ts'
import type { FinalEnd, SinkAnswer } from './fetch-verdict.ts'

/** PEM. */
export type ClientTls = { readonly ca: string; readonly cert: string; readonly key: string }

export type SinkClientOptions = {
  /** `https://host:port` */
  readonly url: string
  readonly tls: ClientTls
  readonly connections?: number
  /** Milliseconds, as those that follow. */
  readonly connectMs?: number
  /** Between two pieces of an answer. */
  readonly stallMs?: number
  /** For one file. */
  readonly attemptMs?: number
}

const MAX_HISTORY_BYTES = 1024 * 1024
const MAX_JSON_BYTES = 8 * 1024 * 1024
const WRITE_BYTES = 1024 * 1024
/** Each piece is a trip to another thread: the default of 16 kB makes a thousand of them per segment. */
const DECOMPRESS_BYTES = 256 * 1024

export class SinkClient implements AsyncDisposable {
  readonly url: string
  readonly #agent: Agent
  readonly #attemptMs: number

  /** Throws BAD_ARGUMENT. */
  constructor({ url, tls, connections = 4, connectMs = 5_000, stallMs = 10_000, attemptMs = 60_000 }: SinkClientOptions) {
    const parsed = URL.parse(url)
    if (parsed?.protocol !== 'https:' || parsed.pathname !== '/' || parsed.search !== '' || parsed.username !== '')
      throw new BeyondError('BAD_ARGUMENT', `The address of a sink is https://HOST:PORT, not ${JSON.stringify(url)}.`)
    this.url = parsed.origin
    this.#attemptMs = attemptMs
    this.#agent = new Agent({
      connections,
      pipelining: 1,
      headersTimeout: stallMs,
      bodyTimeout: stallMs,
      keepAliveTimeout: 30_000,
      maxHeaderSize: 16_384,
      connect: { ...tls, timeout: connectMs, minVersion: 'TLSv1.3' },
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#agent.destroy()
  }

  /** A call with JSON on both sides. Throws what the sink says, UNREACHABLE, UNAUTHENTICATED or TIMEOUT. */
  async call(method: 'GET' | 'PUT' | 'POST' | 'DELETE', path: string, { body, signal, patienceMs = this.#attemptMs }: { body?: unknown; signal?: AbortSignal; patienceMs?: number } = {}): Promise<unknown> {
    const late = AbortSignal.timeout(patienceMs)
    const options = { origin: this.url, method, path, bodyTimeout: patienceMs, headersTimeout: patienceMs, signal: AbortSignal.any([late, ...(signal ? [signal] : [])]) }
    try {
      const response = await this.#agent.request(body === undefined ? options : { ...options, body: JSON.stringify(body) })
      const value = JSON.parse((await readAll(response.body, MAX_JSON_BYTES)).toString('utf8')) as unknown
      if (response.statusCode < 300) return value
      const { code, message } = (value ?? {}) as { code?: unknown; message?: unknown }
      const known: ErrorCode = typeof code === 'string' && Object.hasOwn(codes, code) ? (code as ErrorCode) : 'INTERNAL'
      throw new BeyondError(known, typeof message === 'string' ? message : `The sink ${this.url} answered ${response.statusCode}.`)
    } catch (error) {
      signal?.throwIfAborted()
      if (late.aborted) throw new BeyondError('TIMEOUT', `The sink ${this.url} did not answer in time.`, { cause: error })
      throw error instanceof BeyondError ? error : unreachable(this.url, error)
    }
  }

  /** Fetches a segment or a history into `path`. The file is there only when the answer says so. Throws only when `signal` aborts. */
  async fetch(name: string, path: string, { systemId, signal }: { systemId?: bigint | undefined; signal: AbortSignal }): Promise<SinkAnswer> {
    const late = AbortSignal.timeout(this.#attemptMs)
    try {
      return await this.#fetch(name, path, systemId, AbortSignal.any([signal, late]))
    } catch (error) {
      await rm(path, { force: true })
      signal.throwIfAborted()
      const { message } = late.aborted ? new BeyondError('TIMEOUT', `${this.url} is too slow.`) : error instanceof BeyondError ? error : unreachable(this.url, error)
      return { kind: 'unknown', reason: message }
    }
  }

  async #fetch(name: string, path: string, systemId: bigint | undefined, signal: AbortSignal): Promise<SinkAnswer> {
    const isHistory = name.endsWith('.history')
    const response = await this.#agent.request({
      origin: this.url,
      method: 'GET',
      path: `/v1/${isHistory ? 'histories' : 'segments'}/${name}`,
      headers: { 'accept-encoding': 'zstd' },
      signal,
    })
    if (response.statusCode === 404) return notFound(await readAll(response.body, MAX_JSON_BYTES), this.url, systemId)
    if (response.statusCode !== 200) {
      await response.body.dump()
      return { kind: 'unknown', reason: `${this.url} answered ${response.statusCode}` }
    }
    const kind = response.headers['beyond-kind']
    if (kind === 'history' && isHistory) return this.#history(response, path)
    if ((kind !== 'closed' && kind !== 'sealed') || isHistory) {
      response.body.destroy()
      return { kind: 'unknown', reason: kind === 'partial' ? `${name} is still being written on ${this.url}` : `${this.url} answered with something else` }
    }
    return this.#segment(response, name, path, kind, systemId, signal)
  }

  async #history({ headers, body }: Dispatcher.ResponseData, path: string): Promise<SinkAnswer> {
    const bytes = await readAll(body, MAX_HISTORY_BYTES)
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    if (bytes.length !== Number(headers['beyond-bytes']) || sha256 !== headers['beyond-sha256'])
      return { kind: 'unknown', reason: `the history from ${this.url} is not what was announced` }
    await using file = await open(path, 'w', 0o600)
    await file.writeFile(bytes)
    return { kind: 'history', path, sha256 }
  }

  async #segment(response: Dispatcher.ResponseData, name: string, path: string, kind: 'closed' | 'sealed', systemId: bigint | undefined, signal: AbortSignal): Promise<SinkAnswer> {
    const { headers, body } = response
    const bytes = segmentBytesOf(headers['beyond-bytes'])
    const encoding = headers['content-encoding']
    const end = parseLsn(String(headers['beyond-end'] ?? ''))
    const sha256 = headers['beyond-sha256']?.toString() || undefined
    try {
      if (bytes === undefined || (encoding !== undefined && encoding !== 'zstd') || (kind === 'sealed' && end === undefined))
        throw new BeyondError('BAD_REQUEST', `${this.url} announced something that is not a segment`)
      await receive(body, encoding === 'zstd', new SegmentCheck({ name, bytes, systemId, sha256 }), path, signal)
      if (sha256 === undefined) await checkRecords(name, path, bytes, kind === 'sealed' ? end : undefined)
    } catch (error) {
      body.on('error', () => undefined).destroy()
      throw error
    }
    return kind === 'closed' ? { kind, path } : { kind, path, end: end as Lsn }
  }
}

/** Writes what arrives in pieces of a useful size. Undici hands on what fits into one TLS record. */
async function receive(body: Readable, isCompressed: boolean, check: SegmentCheck, path: string, signal: AbortSignal): Promise<void> {
  await using file = await open(path, 'w', 0o600)
  const write = async (source: AsyncIterable<Buffer>): Promise<void> => {
    let held: Buffer[] = []
    let bytes = 0
    let position = 0
    const flush = async (): Promise<void> => {
      await writeAll(file, held, position)
      position += bytes
      held = []
      bytes = 0
    }
    for await (const piece of source) {
      check.push(piece)
      held.push(piece)
      bytes += piece.length
      if (bytes >= WRITE_BYTES) await flush()
    }
    await flush()
  }
  if (isCompressed) await pipeline(body, createZstdDecompress({ chunkSize: DECOMPRESS_BYTES }), write, { signal })
  else await pipeline(body, write, { signal })
  check.finish()
}

/** Where no checksum vouches for the bytes, each record does. */
async function checkRecords(name: string, path: string, segmentBytes: number, end: Lsn | undefined): Promise<void> {
  await using file = await open(path, 'r')
  const { timeline, number } = parseSegmentFileName(name, segmentBytes)!
  const start = segmentStart(number, segmentBytes)
  const buffer = Buffer.alloc(Math.min(WRITE_BYTES, segmentBytes))
  const systemId = (await file.read(buffer, 0, 40, 0)).buffer.readBigUInt64LE(24)
  const scanner = new WalScanner({ systemId, segmentBytes, timeline, start })
  for (let at = 0; at < segmentBytes && scanner.fault === undefined; at += buffer.length) {
    await file.read(buffer, 0, buffer.length, at)
    scanner.scan(buffer, (start + BigInt(at)) as Lsn)
  }
  if (end === undefined ? scanner.fault !== undefined : scanner.validEnd < end) throw corrupt(name, 'has a wrong record')
}

function notFound(body: Buffer, url: string, systemId: bigint | undefined): SinkAnswer {
  const unknown: SinkAnswer = { kind: 'unknown', reason: `${url} does not have it and does not say that WAL ends before it` }
  try {
    const { code, sealed } = JSON.parse(body.toString('utf8')) as { code?: unknown; sealed?: Record<string, unknown> }
    if (code !== 'NOT_FOUND' || typeof sealed !== 'object' || sealed === null) return unknown
    const end: FinalEnd = {
      generation: BigInt(String(sealed['generation'])),
      systemId: BigInt(String(sealed['systemId'])),
      timeline: toTimeline(Number(sealed['timeline']))!,
      lsn: parseLsn(String(sealed['lsn']))!,
      segmentBytes: segmentBytesOf(String(sealed['segmentBytes']))!,
    }
    if (end.timeline === undefined || end.lsn === undefined || end.segmentBytes === undefined) return unknown
    if (systemId !== undefined && end.systemId !== systemId) return { kind: 'unknown', reason: `${url} keeps the WAL of another cluster` }
    return { kind: 'absent', end }
  } catch {
    return unknown
  }
}

async function readAll(body: AsyncIterable<Buffer>, limit: number): Promise<Buffer> {
  const pieces: Buffer[] = []
  let bytes = 0
  for await (const piece of body) {
    bytes += piece.length
    if (bytes > limit) throw new BeyondError('BAD_REQUEST', 'An answer is too long.')
    pieces.push(piece)
  }
  return Buffer.concat(pieces)
}

function unreachable(url: string, cause: unknown): BeyondError {
  const { code = '', message } = cause as NodeJS.ErrnoException
  const isTls = /^(ERR_TLS|ERR_SSL|CERT_|UNABLE_TO|SELF_SIGNED|DEPTH_ZERO|EPROTO)/.test(code)
  return new BeyondError(isTls ? 'UNAUTHENTICATED' : 'UNREACHABLE', `The sink ${url} can't be asked: ${message}.`, { cause, facts: { url } })
}

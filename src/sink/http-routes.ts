/** What can be asked of a sink: method, path, role, and who answers. docs/sink-api.yaml says the same to people. */
import { BeyondError } from '../errors.ts'
import { formatLsn, parseLsn } from '../wal/lsn.ts'
import { MIN_SEGMENT_BYTES, parseSegmentFileName } from '../wal/segment-name.ts'
import { parseHistoryFileName } from '../wal/timeline.ts'
import { serveEvents } from './http-events.ts'
import { answerJson, readBody, readJson, type Exchange, type HttpLimits } from './http-exchange.ts'
import { pinJson, positionJson, sealJson, segmentJson, statusJson, verifyJson } from './http-json.ts'
import { metricsText, type HttpCounters } from './http-metrics.ts'
import { serveObject } from './http-object.ts'
import { ownsPin, type Role } from './http-role.ts'
import type { AttachRequest, PrimaryConninfo, Sink } from './sink.ts'

export type Served = { readonly sink: Sink; readonly limits: HttpLimits; readonly counters: HttpCounters }

export type Route = {
  readonly method: 'GET' | 'PUT' | 'POST' | 'DELETE'
  /** The one group is the name that the path ends with. */
  readonly path: RegExp
  readonly role: Role
  handle(exchange: Exchange, served: Served, name: string): Promise<void> | void
}

const PAGE = 1_000
const CONNINFO_KEYS = ['host', 'hostaddr', 'port', 'user', 'password', 'sslmode', 'sslrootcert', 'sslcert', 'sslkey'] as const

const refuse = (sentence: string): BeyondError => new BeyondError('BAD_REQUEST', sentence)

/** Digits of a generation; not 0, which is "none". */
function generationOf(value: unknown): bigint {
  if (typeof value !== 'string' || !/^[1-9]\d{0,18}$/.test(value)) throw refuse('"generation" must be a string of digits, at least "1".')
  return BigInt(value)
}

function textOf(value: unknown, field: string): string {
  // Printable ASCII: it is logged, and stands in files.
  if (typeof value !== 'string' || !/^[\x21-\x7e]{1,255}$/.test(value)) throw refuse(`"${field}" must be 1 to 255 printable characters without spaces.`)
  return value
}

function conninfoOf(value: unknown): PrimaryConninfo {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw refuse('"conninfo" must be an object.')
  for (const [key, text] of Object.entries(value)) {
    if (!CONNINFO_KEYS.some((each) => each === key)) throw refuse(`"conninfo" has an unknown keyword ${JSON.stringify(key)}.`)
    // No line ends or NULs: libpq would read what follows as something else.
    // oxlint-disable-next-line no-control-regex
    if (typeof text !== 'string' || text.length > 4096 || /[\x00-\x1f\x7f]/.test(text)) throw refuse(`"conninfo.${key}" is not a usable text.`)
  }
  return value as PrimaryConninfo
}

function checkSegmentName(name: string, { sink }: Served): void {
  // Before the first attach the size is not known, and nothing is held: any size that is possible will do.
  if (!parseSegmentFileName(name, sink.status().segmentBytes ?? MIN_SEGMENT_BYTES)) throw refuse('That is not the name of a segment: 24 hexadecimal digits.')
}

function checkPinName(name: string): void {
  if (!/^[a-z0-9._-]{1,63}$/.test(name)) throw refuse("A pin's name is of a-z, 0-9, '.', '_' and '-', at most 63 of them.")
}

async function download({ limits, counters }: Served, send: () => Promise<number>): Promise<void> {
  if (counters.downloads >= limits.downloads) throw new BeyondError('TOO_MANY', `At most ${limits.downloads} downloads at a time: ask again.`)
  counters.downloads++
  try {
    counters.bytesSent += await send()
  } finally {
    counters.downloads--
  }
}

export const routes: readonly Route[] = [
  {
    method: 'GET',
    path: /^\/v1\/status$/,
    role: 'read',
    handle: (exchange, { sink }) => answerJson(exchange, 200, statusJson(sink.status())),
  },
  {
    method: 'GET',
    path: /^\/v1\/events$/,
    role: 'read',
    async handle(exchange, { sink, limits, counters }) {
      if (counters.eventStreams >= limits.eventStreams) throw new BeyondError('TOO_MANY', `At most ${limits.eventStreams} event streams at a time.`)
      counters.eventStreams++
      try {
        await serveEvents(exchange, sink, limits)
      } finally {
        counters.eventStreams--
      }
    },
  },
  {
    method: 'GET',
    path: /^\/v1\/metrics$/,
    role: 'read',
    handle({ request, response }, { sink, counters }) {
      response.setHeader('content-type', 'text/plain; version=0.0.4; charset=utf-8')
      response.setHeader('cache-control', 'no-store')
      response.end(request.method === 'HEAD' ? undefined : metricsText(sink.status(), counters))
    },
  },
  {
    method: 'GET',
    path: /^\/v1\/segments$/,
    role: 'read',
    async handle(exchange, { sink }) {
      const limit = Number(exchange.query.get('limit') ?? PAGE)
      const after = exchange.query.get('after') ?? ''
      if (!Number.isInteger(limit) || limit < 1 || limit > PAGE) throw refuse(`"limit" is a number from 1 to ${PAGE}.`)
      if (!/^([0-9A-F]{24})?$/.test(after)) throw refuse('"after" is the name of a segment.')
      // By name is by timeline and start.
      const rest = (await sink.segments()).filter(({ name }) => name > after)
      answerJson(exchange, 200, { segments: rest.slice(0, limit).map(segmentJson), next: rest.length > limit ? rest[limit - 1].name : undefined })
    },
  },
  {
    method: 'GET',
    path: /^\/v1\/segments\/([0-9A-Za-z.]{1,64})$/,
    role: 'read',
    async handle(exchange, served, name) {
      checkSegmentName(name, served)
      const { sink, limits } = served
      await download(served, async () => {
        const object = await sink.openSegment(name)
        const { systemId } = sink.status()
        // Where WAL ends in it decides which of several sinks has more.
        const end = object.kind === 'closed' ? undefined : (await sink.segments()).find((segment) => segment.name === name)?.end
        const extra = {
          ...(systemId === undefined ? {} : { 'beyond-system-id': String(systemId) }),
          ...(end === undefined ? {} : { 'beyond-end': formatLsn(end) }),
        }
        return serveObject(exchange, object, extra, limits)
      })
    },
  },
  {
    method: 'GET',
    path: /^\/v1\/histories$/,
    role: 'read',
    handle: async (exchange, { sink }) => answerJson(exchange, 200, { histories: await sink.histories() }),
  },
  {
    method: 'GET',
    path: /^\/v1\/histories\/([0-9A-Za-z.]{1,64})$/,
    role: 'read',
    async handle(exchange, served, name) {
      checkHistoryName(name)
      await download(served, async () => serveObject(exchange, await served.sink.openHistory(name), {}, served.limits))
    },
  },
  {
    method: 'PUT',
    path: /^\/v1\/histories\/([0-9A-Za-z.]{1,64})$/,
    role: 'seal',
    async handle(exchange, { sink, limits }, name) {
      checkHistoryName(name)
      await sink.putHistory(name, await readBody(exchange, limits))
      answerJson(exchange, 200, { name })
    },
  },
  {
    method: 'POST',
    path: /^\/v1\/seal$/,
    role: 'seal',
    async handle(exchange, { sink, limits }) {
      const body = await readJson(exchange, limits, ['generation', 'by'])
      const { seal, position } = await sink.seal({ generation: generationOf(body['generation']), by: textOf(body['by'], 'by') })
      answerJson(exchange, 200, { seal: sealJson(seal), position: positionJson(position) })
    },
  },
  {
    method: 'POST',
    path: /^\/v1\/attach$/,
    role: 'seal',
    async handle(exchange, { sink, limits }) {
      const body = await readJson(exchange, limits, ['generation', 'by', 'conninfo'])
      const request: AttachRequest = {
        generation: generationOf(body['generation']),
        by: textOf(body['by'], 'by'),
        conninfo: conninfoOf(body['conninfo']),
      }
      await sink.attach(request)
      answerJson(exchange, 200, { generation: String(request.generation) })
    },
  },
  {
    method: 'GET',
    path: /^\/v1\/pins$/,
    role: 'read',
    handle: (exchange, { sink }) => answerJson(exchange, 200, { pins: sink.pins().map(pinJson) }),
  },
  {
    method: 'PUT',
    path: /^\/v1\/pins\/([^/]{1,64})$/,
    role: 'seal',
    async handle(exchange, { sink, limits }, name) {
      checkPin(exchange, name)
      const body = await readJson(exchange, limits, ['lsn', 'expiresAt'])
      const lsn = typeof body['lsn'] === 'string' ? parseLsn(body['lsn']) : undefined
      if (lsn === undefined) throw refuse('"lsn" must be an LSN, such as "16/B374D848".')
      const expiresAt = body['expiresAt']
      if (expiresAt !== undefined && (typeof expiresAt !== 'string' || !/^\d{4}-\d\d-\d\dT/.test(expiresAt) || Number.isNaN(Date.parse(expiresAt))))
        throw refuse('"expiresAt" must be a time such as "2030-01-31T12:00:00Z".')
      const pin = { name, lsn, expiresAt }
      await sink.setPin(pin)
      answerJson(exchange, 200, pinJson(pin))
    },
  },
  {
    method: 'DELETE',
    path: /^\/v1\/pins\/([^/]{1,64})$/,
    role: 'seal',
    async handle(exchange, { sink }, name) {
      checkPin(exchange, name)
      await sink.removePin(name)
      answerJson(exchange, 200, { name })
    },
  },
  {
    method: 'POST',
    path: /^\/v1\/verify$/,
    role: 'admin',
    async handle({ response, gone }, { sink, limits, counters }) {
      if (counters.verifications > 0) throw new BeyondError('TOO_MANY', 'A verification runs already: wait for its end.')
      counters.verifications++
      try {
        // JSON may begin with blanks: they keep the connection from being taken for dead during a long reading.
        const beat = setInterval(() => void response.write(' '), limits.heartbeatMs)
        response.setHeader('content-type', 'application/json; charset=utf-8')
        const report = await sink.verify(gone).finally(() => clearInterval(beat))
        response.end(`${JSON.stringify(verifyJson(report))}\n`)
      } finally {
        counters.verifications--
      }
    },
  },
]

function checkHistoryName(name: string): void {
  if (parseHistoryFileName(name) === undefined) throw refuse('That is not the name of a history: 8 hexadecimal digits and ".history".')
}

function checkPin({ peer }: Exchange, name: string): void {
  checkPinName(name)
  if (!ownsPin(peer, name)) throw new BeyondError('FORBIDDEN', `Only an administrator may change a pin that does not bear the name ${peer.name ?? 'of the certificate'}.`)
}

/**
 * The management protocol as bytes: one JSON object per line, in UTF-8, both ways. Pure; docs/rpc.md is its page.
 *
 *   request   {"v":1,"id":7,"method":"logs","params":{"follow":true},"deadlineMs":5000}
 *   cancel    {"v":1,"id":7,"cancel":true}
 *   answer    {"v":1,"id":7,"item":…}   any number of them, then one of
 *             {"v":1,"id":7,"result":…}
 *             {"v":1,"id":7,"error":{"code":"TIMEOUT","message":"…","retry":true}}
 */
import { BeyondError, codeOf, codes, type ErrorCode } from '../errors.ts'

export const RPC_VERSION = 1
/** Longest request line that a server reads, bytes without its end. */
export const MAX_REQUEST_BYTES = 1024 * 1024
/** Longest answer line that a client reads. */
export const MAX_ANSWER_BYTES = 16 * 1024 * 1024
/** A request may ask for less time than its method takes by default, or for more, up to this. */
export const MAX_DEADLINE_MS = 3_600_000
const MAX_ID_LENGTH = 64

export type RequestId = string | number
export type Params = Readonly<Record<string, unknown>>

export type Request = {
  readonly kind: 'request'
  readonly id: RequestId
  readonly method: string
  readonly params: Params
  readonly deadlineMs: number | undefined
}
export type Cancel = { readonly kind: 'cancel'; readonly id: RequestId }
/** A line that is no request. Without an id the sender can't be answered in kind, so the connection ends. */
export type Refusal = { readonly kind: 'refusal'; readonly id: RequestId | null; readonly error: BeyondError }

export type Answer =
  | { readonly kind: 'item'; readonly id: RequestId; readonly value: unknown }
  | { readonly kind: 'result'; readonly id: RequestId; readonly value: unknown }
  | { readonly kind: 'error'; readonly id: RequestId | null; readonly error: BeyondError }

const NEWLINE = 0x0a
const utf8 = new TextDecoder('utf-8', { fatal: true })

/** Cuts bytes into lines. Holds at most one line of `longest` bytes; a longer one is a PROTOCOL_VIOLATION. */
export class LineReader {
  readonly #longest: number
  #buffer = Buffer.alloc(0)
  #held = 0

  constructor(longest: number) {
    this.#longest = longest
  }

  /** Whether a line has begun and not ended. */
  get partial(): boolean {
    return this.#held > 0
  }

  /** The lines that this chunk completes. The chunk may be reused by its owner afterwards. */
  push(chunk: Uint8Array): Uint8Array[] {
    const lines: Uint8Array[] = []
    let start = 0
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
      this.#hold(chunk.subarray(start, end))
      lines.push(this.#buffer.subarray(0, this.#held))
      this.#buffer = Buffer.alloc(0)
      this.#held = 0
      start = end + 1
    }
    this.#hold(chunk.subarray(start))
    return lines
  }

  /** In one buffer that doubles: bytes that come one by one cost no more than those that come at once. */
  #hold(part: Uint8Array): void {
    const held = this.#held + part.length
    if (held > this.#longest) throw new BeyondError('PROTOCOL_VIOLATION', `A line is longer than ${this.#longest} bytes.`)
    if (held > this.#buffer.length) {
      const larger = Buffer.alloc(Math.min(this.#longest, Math.max(held, this.#buffer.length * 2)))
      larger.set(this.#buffer.subarray(0, this.#held))
      this.#buffer = larger
    }
    this.#buffer.set(part, this.#held)
    this.#held = held
  }
}

/** What a line to the server says. Never throws: what can't be understood is a refusal. */
export function decodeRequest(line: Uint8Array): Request | Cancel | Refusal {
  let value: unknown
  try {
    value = JSON.parse(utf8.decode(line))
  } catch {
    return refusal(null, 'PROTOCOL_VIOLATION', 'The line is not JSON in UTF-8.')
  }
  if (!isRecord(value)) return refusal(null, 'PROTOCOL_VIOLATION', 'The line is not a JSON object.')
  const { v, id, method, params, deadlineMs, cancel, ...unknown } = value
  if (!isId(id)) {
    return refusal(null, 'PROTOCOL_VIOLATION', `A request needs an id: a whole number, or a text of 1 to ${MAX_ID_LENGTH} characters.`)
  }
  if (v !== RPC_VERSION) return refusal(id, 'UNSUPPORTED_VERSION', `This box speaks version ${RPC_VERSION} of the protocol: say "v":${RPC_VERSION}.`)
  const [stranger] = Object.keys(unknown)
  if (stranger !== undefined) return refusal(id, 'BAD_REQUEST', `A request has no field ${quoted(stranger)}.`)
  if (cancel !== undefined) {
    const alone = cancel === true && method === undefined && params === undefined && deadlineMs === undefined
    return alone ? { kind: 'cancel', id } : refusal(id, 'BAD_REQUEST', 'A cancel holds v, id and "cancel":true, nothing else.')
  }
  if (typeof method !== 'string') return refusal(id, 'BAD_REQUEST', 'The method must be a text.')
  if (params !== undefined && !isRecord(params)) return refusal(id, 'BAD_REQUEST', 'The params must be an object.')
  if (deadlineMs !== undefined && !isInteger(deadlineMs, 1, MAX_DEADLINE_MS)) {
    return refusal(id, 'BAD_REQUEST', `The deadlineMs must be a whole number from 1 to ${MAX_DEADLINE_MS}.`)
  }
  return { kind: 'request', id, method, params: params ?? {}, deadlineMs }
}

/** What a line to the client says. Throws PROTOCOL_VIOLATION. */
export function decodeAnswer(line: Uint8Array): Answer {
  const broken = (what: string, cause?: unknown): BeyondError => new BeyondError('PROTOCOL_VIOLATION', `The box answered ${what}.`, { cause })
  let value: unknown
  try {
    value = JSON.parse(utf8.decode(line))
  } catch (error) {
    throw broken('what is not JSON', error)
  }
  if (!isRecord(value)) throw broken('what is not an object')
  const { id } = value
  if (Object.hasOwn(value, 'error')) {
    if (id !== null && !isId(id)) throw broken('without an id')
    return { kind: 'error', id, error: errorFrom(value['error']) }
  }
  if (!isId(id)) throw broken('without an id')
  if (Object.hasOwn(value, 'result')) return { kind: 'result', id, value: value['result'] }
  if (Object.hasOwn(value, 'item')) return { kind: 'item', id, value: value['item'] }
  throw broken('neither an item, a result nor an error')
}

export function encodeRequest(id: RequestId, method: string, params: Params, deadlineMs?: number): string {
  return `${JSON.stringify({ v: RPC_VERSION, id, method, params, deadlineMs })}\n`
}

export const encodeCancel = (id: RequestId): string => `${JSON.stringify({ v: RPC_VERSION, id, cancel: true })}\n`
export const encodeItem = (id: RequestId, item: unknown): string => `${JSON.stringify({ v: RPC_VERSION, id, item })}\n`
export const encodeResult = (id: RequestId, result: unknown): string => `${JSON.stringify({ v: RPC_VERSION, id, result: result ?? null })}\n`

/** Faults of the box itself are named, their details are for its log. */
export function encodeError(id: RequestId | null, error: unknown): string {
  const code = codeOf(error)
  const message = error instanceof BeyondError ? error.message : 'The box failed to do this: its log says why.'
  return `${JSON.stringify({ v: RPC_VERSION, id, error: { code, message, retry: codes[code].retry } })}\n`
}

/** A newer server may have codes that this client doesn't know. */
function errorFrom(value: unknown): BeyondError {
  const { code, message } = isRecord(value) ? value : {}
  const known = typeof code === 'string' && Object.hasOwn(codes, code) ? (code as ErrorCode) : 'INTERNAL'
  return new BeyondError(known, typeof message === 'string' ? message : 'The box answered with an error that says nothing.')
}

// ── parameters ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** Reads one parameter; undefined stands for one that was not given. Throws a sentence without its subject. */
export type Parameter<T> = (value: unknown) => T

export const integer =
  (min: number, max: number, otherwise: number): Parameter<number> =>
  (value) => {
    if (value === undefined) return otherwise
    if (isInteger(value, min, max)) return value
    throw new TypeError(`must be a whole number from ${min} to ${max}`)
  }

export const flag: Parameter<boolean> = (value) => {
  if (value === undefined) return false
  if (typeof value === 'boolean') return value
  throw new TypeError('must be true or false')
}

export const oneOf =
  <T extends string>(...choices: readonly T[]): Parameter<T | undefined> =>
  (value) => {
    if (value === undefined || choices.includes(value as T)) return value as T | undefined
    throw new TypeError(`must be one of ${choices.join(', ')}`)
  }

/** Reads exactly these parameters. Throws BAD_REQUEST, also for one that nobody asked for. */
export function readParams<T>(params: Params, shape: { readonly [K in keyof T]: Parameter<T[K]> }): T {
  const stranger = Object.keys(params).find((name) => !Object.hasOwn(shape, name))
  if (stranger !== undefined) throw new BeyondError('BAD_REQUEST', `There is no parameter ${quoted(stranger)} here.`)
  const read = Object.entries(shape).map(([name, parameter]) => {
    try {
      return [name, (parameter as Parameter<unknown>)(Object.hasOwn(params, name) ? params[name] : undefined)]
    } catch (error) {
      throw new BeyondError('BAD_REQUEST', `The parameter ${name} ${(error as Error).message}.`, { cause: error })
    }
  })
  return Object.fromEntries(read) as T
}

const refusal = (id: RequestId | null, code: ErrorCode, message: string): Refusal => ({ kind: 'refusal', id, error: new BeyondError(code, message) })

/** What a stranger sent, short enough to be said back. */
const quoted = (text: string): string => JSON.stringify(text.slice(0, 40))

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value)

const isInteger = (value: unknown, min: number, max: number): value is number => Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max

function isId(value: unknown): value is RequestId {
  return isInteger(value, 0, Number.MAX_SAFE_INTEGER) || (typeof value === 'string' && value !== '' && value.length <= MAX_ID_LENGTH)
}

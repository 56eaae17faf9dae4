/**
 * Which bytes a request wants: Range, If-None-Match, If-Range. Pure.
 * Source: RFC 9110, sections 13 and 14
 */
export type Wanted =
  | { readonly status: 200; readonly start: 0; readonly end: number }
  | { readonly status: 206; readonly start: number; readonly end: number }
  | { readonly status: 304 | 416 }

export type Conditions = {
  readonly range?: string | undefined
  readonly ifNoneMatch?: string | undefined
  readonly ifRange?: string | undefined
}

/** `bytes`: of the whole object. `etag`: with its quotes. One range only; several are answered with the whole, as the RFC allows. */
export function bytesWanted({ range, ifNoneMatch, ifRange }: Conditions, bytes: number, etag: string): Wanted {
  if (ifNoneMatch !== undefined && matchesAny(ifNoneMatch, etag)) return { status: 304 }
  const whole = { status: 200, start: 0, end: bytes } as const
  if (range === undefined || (ifRange !== undefined && ifRange.trim() !== etag)) return whole
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(range.trim())
  if (!match || (match[1] === '' && match[2] === '')) return whole
  if (match[1] === '') {
    const last = Math.min(Number(match[2]), bytes)
    return last === 0 ? { status: 416 } : { status: 206, start: bytes - last, end: bytes }
  }
  const start = Number(match[1])
  const end = match[2] === '' ? bytes : Math.min(Number(match[2]) + 1, bytes)
  if (match[2] !== '' && Number(match[2]) < start) return whole
  return start >= bytes ? { status: 416 } : { status: 206, start, end }
}

function matchesAny(list: string, etag: string): boolean {
  return list.split(',').some((each) => each.trim() === '*' || each.trim().replace(/^W\//, '') === etag)
}

/** Whether zstd is among the encodings that the client takes. Source: RFC 9110, section 12.5.3 */
export function takesZstd(acceptEncoding: string | undefined): boolean {
  return (acceptEncoding ?? '').split(',').some((each) => {
    const [coding, ...parameters] = each.trim().toLowerCase().split(/\s*;\s*/)
    return coding === 'zstd' && !parameters.some((parameter) => /^q=0(\.0*)?$/.test(parameter))
  })
}

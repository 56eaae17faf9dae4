/** Serves one object, a segment or a history: whole, a range, or not at all when the client has it. */
import { sendPieces, type Exchange, type HttpLimits } from './http-exchange.ts'
import { bytesWanted, takesZstd } from './http-range.ts'
import type { OpenObject } from './sink.ts'

/** Answers how many bytes of body were sent. Closes the object. */
export async function serveObject(exchange: Exchange, opened: OpenObject, extra: Record<string, string>, limits: HttpLimits): Promise<number> {
  await using object = opened
  const { request, response } = exchange
  const { headers } = request
  const range = request.method === 'GET' ? headers.range : undefined
  // A range is always of the bytes as they are: nobody can make use of a piece of a compressed file.
  const zstd = object.zstd && range === undefined && takesZstd(headers['accept-encoding']?.toString()) ? object.zstd : undefined
  const bytes = zstd ? zstd.bytes : object.bytes
  const etag = `"${object.etag}${zstd ? '-zstd' : ''}"`
  const conditions = { range, ifNoneMatch: headers['if-none-match'], ifRange: headers['if-range']?.toString() }
  const wanted = bytesWanted(conditions, bytes, etag)

  response.statusCode = wanted.status
  response.setHeader('etag', etag)
  response.setHeader('vary', 'accept-encoding')
  response.setHeader('accept-ranges', 'bytes')
  response.setHeader('cache-control', object.kind === 'partial' ? 'no-store' : 'private, no-cache')
  response.setHeader('beyond-kind', object.kind)
  for (const [name, value] of Object.entries(extra)) response.setHeader(name, value)
  if (!('start' in wanted)) {
    if (wanted.status === 416) response.setHeader('content-range', `bytes */${bytes}`)
    response.end()
    return 0
  }
  response.setHeader('content-type', object.kind === 'history' ? 'text/plain; charset=utf-8' : 'application/octet-stream')
  response.setHeader('content-length', wanted.end - wanted.start)
  if (zstd) response.setHeader('content-encoding', 'zstd')
  if (wanted.status === 206) response.setHeader('content-range', `bytes ${wanted.start}-${wanted.end - 1}/${bytes}`)
  // Of the bytes before any encoding, and always of the whole. Its own name, since RFC 9530 digests mean other things.
  if (object.sha256 !== undefined) response.setHeader('beyond-sha256', object.sha256)
  response.setHeader('beyond-bytes', object.bytes)
  if (request.method === 'HEAD') {
    response.end()
    return 0
  }
  // Awaited here: the object is closed when this function ends.
  return await sendPieces(exchange, zstd ? zstd.read() : object.read(wanted.start, wanted.end), wanted.end - wanted.start, limits)
}

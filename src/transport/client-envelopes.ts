/**
 * Reads envelopes of a peer that is not trusted. The bytes may be hostile, and avsc believes the length of an array before it
 * has seen the items (four bytes make it take hundreds of megabytes), so the bounded reader reads here too;
 * avsc still writes, defines and, in the tests, checks.
 */
import { AvroCompiler, AvroCursor } from './client-avro.ts'
import { envelopes, type Codec } from './envelopes.ts'

/** Decodes a frame's body. Throws PROTOCOL_VIOLATION. Bytes in the value are copies. */
function decoder<T>(codec: Codec<T>): (body: Buffer) => T {
  // Without attributes: a timestamp stays the number of microseconds that the envelopes' types promise.
  const read = new AvroCompiler().compile(codec.type.schema({ exportAttrs: false }))
  const cursor = new AvroCursor()
  return (body) => {
    cursor.reset(body, 0)
    const value = read(cursor)
    cursor.finish()
    return value as T
  }
}

export const decodeWelcome = decoder(envelopes.welcome)
export const decodeSchema = decoder(envelopes.schema)
export const decodeBegin = decoder(envelopes.begin)
export const decodeTruncate = decoder(envelopes.truncate)
export const decodeMessage = decoder(envelopes.message)
export const decodeSkip = decoder(envelopes.skip)
export const decodeCommit = decoder(envelopes.commit)
export const decodeProgress = decoder(envelopes.progress)
export const decodeEnd = decoder(envelopes.end)
export const decodeStatus = decoder(envelopes.status)

/** For the server's side: throws PROTOCOL_VIOLATION for bytes that avsc must not be given. What it reads is not used. */
export const checkSubscribe: (body: Buffer) => unknown = decoder(envelopes.subscribe)
export const checkAck: (body: Buffer) => unknown = decoder(envelopes.ack)

/**
 * SCRAM-SHA-256 verifiers, computed here, so that no password ever travels in an SQL statement or reaches a log.
 * Source: RFC 5802, RFC 7677; the stored form is that of Postgres, src/common/scram-common.c.
 * Our passwords are plain ASCII, on which SASLprep changes nothing.
 */
import { createHash, createHmac, pbkdf2Sync, randomBytes, timingSafeEqual } from 'node:crypto'

const ITERATIONS = 4096
const VERIFIER = /^SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)$/

/** The verifier that Postgres stores in pg_authid.rolpassword. */
export function scramVerifier(password: string, salt: Uint8Array = randomBytes(16), iterations: number = ITERATIONS): string {
  const salted = pbkdf2Sync(password, salt, iterations, 32, 'sha256')
  const storedKey = createHash('sha256').update(hmac(salted, 'Client Key')).digest('base64')
  const serverKey = hmac(salted, 'Server Key').toString('base64')
  return `SCRAM-SHA-256$${iterations}:${Buffer.from(salt).toString('base64')}$${storedKey}:${serverKey}`
}

/** Whether the verifier was made of this password; false for what is no SCRAM verifier at all. */
export function verifierMatches(verifier: string | null | undefined, password: string): boolean {
  const match = VERIFIER.exec(verifier ?? '')
  if (!match) return false
  const again = Buffer.from(scramVerifier(password, Buffer.from(match[2], 'base64'), Number(match[1])))
  const given = Buffer.from(match[0])
  return again.length === given.length && timingSafeEqual(again, given)
}

function hmac(key: Uint8Array, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest()
}

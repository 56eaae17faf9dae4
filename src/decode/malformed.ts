import { BeyondError, type Facts } from '../errors.ts'

/** Ends the decoding: what Postgres sent is not what the protocol, or our way of asking for it, allows. */
export function malformed(message: string, facts: Facts = {}): never {
  throw new BeyondError('BAD_REPLICATION_DATA', message, { facts })
}

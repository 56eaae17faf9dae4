/**
 * Where a subscriber stands in a history, and how that is written:
 *
 *     16/B374D848:9f86d081…0a08                    after the transaction that committed at 16/B374D848
 *     16/B374D848:9f86d081…0a08+3@16/B374D900@1763804400123456
 *                                                  after that, and after change 3 of the transaction at 16/B374D900
 *
 * The 64 hexadecimal digits are the chain hash. With it the server proves that it continues the same history;
 * an LSN alone proves nothing, so a position without it is refused. An unfinished transaction has no chain hash yet: its commit
 * time (microseconds since 1970) tells it from one that another history has at the same LSN.
 */
import { BeyondError } from '../errors.ts'
import { formatLsn, parseLsn, type Lsn } from '../wal/lsn.ts'
import type { Position } from './envelopes.ts'

export type StreamPosition = {
  /** The last transaction that was seen whole. */
  readonly after: Position
  /** Set when a part of the next one was seen too: up to and with change `index`; the first is 1. */
  readonly partial?: { readonly lsn: Lsn; readonly index: number; readonly micros?: bigint }
}

const TEXT = /^([^:+@]+):([0-9a-f]{64})(?:\+([1-9]\d{0,15})@([^:+@]+)(?:@(-?\d{1,19}))?)?$/i

export function formatPosition(position: StreamPosition): string {
  const whole = formatTransactionPosition(position.after)
  return position.partial === undefined ? whole : formatPartial(whole, position.partial.lsn, position.partial.index, position.partial.micros)
}

/** The text of a position between two transactions. */
export const formatTransactionPosition = ({ lsn, chain }: Position): string => `${formatLsn(lsn)}:${Buffer.from(chain).toString('hex')}`

export const formatPartial = (whole: string, lsn: Lsn, index: number, micros: bigint | undefined): string =>
  `${whole}+${index}@${formatLsn(lsn)}${micros === undefined ? '' : `@${micros}`}`

/** Reads the text of a position. BAD_ARGUMENT when it is none. */
export function parsePosition(text: string): StreamPosition {
  const match = TEXT.exec(text)
  const lsn = match ? parseLsn(match[1]) : undefined
  const partialLsn = match?.[4] === undefined ? undefined : parseLsn(match[4])
  const index = Number(match?.[3])
  if (!match || lsn === undefined || (match[4] !== undefined && (partialLsn === undefined || !Number.isSafeInteger(index))))
    throw refusal(text)
  const after = { lsn, chain: Buffer.from(match[2], 'hex') }
  if (partialLsn === undefined) return { after }
  return { after, partial: { lsn: partialLsn, index, ...(match[5] === undefined ? {} : { micros: BigInt(match[5]) }) } }
}

function refusal(text: string): BeyondError {
  const shown = JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}…` : text)
  if (parseLsn(text) !== undefined)
    return new BeyondError(
      'BAD_ARGUMENT',
      `${shown} is an LSN without its chain hash, so nobody could tell which history it is of: give the whole position that came with a change.`,
    )
  return new BeyondError(
    'BAD_ARGUMENT',
    `${shown} is not a position: it looks like 16/B374D848:<64 hexadecimal digits>, as it comes with every change.`,
  )
}

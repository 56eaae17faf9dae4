/**
 * LSN: a byte position in the write-ahead log, as Postgres counts it.
 * Source: https://www.postgresql.org/docs/18/datatype-pg-lsn.html
 *
 * A branded bigint: compared and added as a number, text only where it is printed or sent.
 */
export type Lsn = bigint & { readonly __brand: 'Lsn' }

export const LSN_ZERO = 0n as Lsn
const LSN_TEXT = /^([0-9A-F]{1,8})\/([0-9A-F]{1,8})$/i

/** Reads `16/B374D848`; undefined when the text is not an LSN. */
export function parseLsn(text: string): Lsn | undefined {
  const match = LSN_TEXT.exec(text)
  if (!match) return undefined
  return ((BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`)) as Lsn
}

/** Reads an LSN that a server printed; anything else is a broken server. */
export function lsnFromServer(text: string): Lsn {
  const lsn = parseLsn(text)
  if (lsn === undefined) throw new TypeError(`not an LSN: ${JSON.stringify(text)}`)
  return lsn
}

/** Prints as Postgres does: two hexadecimal halves without padding, `16/B374D848`. */
export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffffffffn).toString(16).toUpperCase()}`
}

export const toLsn = (value: bigint): Lsn => value as Lsn
export const maxLsn = (a: Lsn, b: Lsn): Lsn => (a > b ? a : b)

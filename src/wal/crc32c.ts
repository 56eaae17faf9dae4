/**
 * CRC-32C (Castagnoli), the checksum of WAL records. Slicing by eight, in JavaScript: records are small, so that a call
 * across into native code would cost more than it saves.
 * Source: RFC 3720, appendix B.4; src/port/pg_crc32c_sb8.c
 */

const POLYNOMIAL = 0x82f63b78
const SLICES = 8
/** Eight tables of 256, one after another. */
const table = new Int32Array(SLICES * 256)

for (let byte = 0; byte < 256; byte++) {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1
  table[byte] = crc
}
for (let byte = 0; byte < 256; byte++)
  for (let slice = 1; slice < SLICES; slice++) {
    const before = table[(slice - 1) * 256 + byte]
    table[slice * 256 + byte] = (before >>> 8) ^ table[before & 0xff]
  }

export const CRC32C_INIT = -1

/** Adds `bytes[start, end)` to a running checksum that began as CRC32C_INIT. */
export function crc32cUpdate(crc: number, bytes: Uint8Array, start: number, end: number): number {
  let i = start
  for (const last = end - 7; i < last; i += 8) {
    const low = crc ^ (bytes[i] | (bytes[i + 1] << 8) | (bytes[i + 2] << 16) | (bytes[i + 3] << 24))
    crc =
      table[1792 + (low & 0xff)] ^
      table[1536 + ((low >>> 8) & 0xff)] ^
      table[1280 + ((low >>> 16) & 0xff)] ^
      table[1024 + (low >>> 24)] ^
      table[768 + bytes[i + 4]] ^
      table[512 + bytes[i + 5]] ^
      table[256 + bytes[i + 6]] ^
      table[bytes[i + 7]]
  }
  for (; i < end; i++) crc = (crc >>> 8) ^ table[(crc ^ bytes[i]) & 0xff]
  return crc
}

/** The checksum as it is stored: unsigned. */
export const crc32cFinish = (crc: number): number => ~crc >>> 0

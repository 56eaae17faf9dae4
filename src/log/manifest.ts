/**
 * What a change log is: `manifest.json` in its folder. Written once, when a history begins.
 * A log is a history of one database: another server, database or slot needs another log.
 */
import { createHash, randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BeyondError, fromSystem } from '../errors.ts'
import type { Position } from '../transport/envelopes.ts'
import { formatLsn, lsnFromServer, parseLsn, toLsn, type Lsn } from '../wal/lsn.ts'
import { writeFileDurably } from '../durable-file.ts'

export type Manifest = {
  /** UUID of the history. */
  readonly history: string
  readonly systemId: string
  readonly database: string
  readonly slot: string
  readonly publication: string
  /** The last LSN before the slot's consistent point: the history holds every transaction whose commit LSN is greater. */
  readonly genesis: Lsn
  readonly createdAt: string
}

const FILE = 'manifest.json'
const VERSION = 1

export function historyBytes(manifest: Manifest): Buffer {
  return Buffer.from(manifest.history.replaceAll('-', ''), 'hex')
}

/** The chain hash before the first transaction: SHA-256 of the history's UUID. */
export function genesisPosition(manifest: Manifest): Position {
  return { lsn: manifest.genesis, chain: createHash('sha256').update(historyBytes(manifest)).digest() }
}

/**
 * `genesis` is the consistent point of the slot. A record can start right there (a logical message outside of a
 * transaction does), and its position has to be told from that of the genesis, which therefore is one before.
 */
export function newManifest(of: Pick<Manifest, 'systemId' | 'database' | 'slot' | 'publication' | 'genesis'>, now: Date): Manifest {
  return { history: randomUUID(), ...of, genesis: toLsn(of.genesis - 1n), createdAt: now.toISOString() }
}

/** Postgres had been read up to here when the history began: the consistent point of the slot. */
export const genesisReached = (manifest: Manifest): Lsn => toLsn(manifest.genesis + 1n)

export async function readManifest(directory: string): Promise<Manifest | undefined> {
  const path = join(directory, FILE)
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw fromSystem(error, 'reading the change log')
  }
  const corrupt = (cause?: unknown) =>
    new BeyondError('LOG_CORRUPT', `${path} is not a manifest of a change log: restore it, or start a new history with --new-history.`, { cause })
  let value: Record<string, unknown>
  try {
    value = JSON.parse(text) as Record<string, unknown>
  } catch (error) {
    throw corrupt(error)
  }
  if (value['version'] !== VERSION)
    throw new BeyondError('LOG_CORRUPT', `${path} has format version ${String(value['version'])}, this program knows ${VERSION}: run the version that wrote it.`)
  const field = (name: string): string => {
    const text = value[name]
    if (typeof text !== 'string' || text === '') throw corrupt()
    return text
  }
  if (parseLsn(field('genesis')) === undefined || !/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(field('history'))) throw corrupt()
  return {
    history: field('history'),
    systemId: field('systemId'),
    database: field('database'),
    slot: field('slot'),
    publication: field('publication'),
    genesis: lsnFromServer(field('genesis')),
    createdAt: field('createdAt'),
  }
}

export async function writeManifest(directory: string, manifest: Manifest): Promise<void> {
  const text = JSON.stringify({ version: VERSION, ...manifest, genesis: formatLsn(manifest.genesis) }, undefined, 2)
  await writeFileDurably(join(directory, FILE), `${text}\n`)
}

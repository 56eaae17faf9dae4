/**
 * Cursors of durable consumers: `consumers/<name>.json` in the log's folder, one file each.
 * A cursor holds at once in memory, and after `flush` on disk; many moves in between cost one write. A crash puts a
 * consumer back to the last flush at most: what it has acknowledged since comes again, and its client drops it.
 */
import { readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { BeyondError, fromSystem } from '../errors.ts'
import type { Position } from '../transport/envelopes.ts'
import { formatLsn, parseLsn } from '../wal/lsn.ts'
import { makeDirectoryDurably, replaceFile, syncDirectory } from '../durable-file.ts'

export type Consumer = {
  readonly name: string
  /** Everything up to and with this transaction has been processed. */
  readonly position: Position
  /** When that was acknowledged. */
  readonly updatedAt: Date
}

const MAX_CONSUMERS = 1_000
const VERSION = 1
const NAME = /^[a-z0-9_-]{1,63}$/
const CHAIN = /^[0-9a-f]{64}$/
const FILE = /^(.*)\.json$/

export class ConsumerStore {
  readonly #directory: string
  readonly #consumers: Map<string, Consumer>
  /** Names whose file does not say what memory says. */
  #changed = new Set<string>()
  /** One flush at a time; the next one takes what has changed until it begins. */
  #flushing: Promise<void> = Promise.resolve()
  #next: Promise<void> | undefined

  private constructor(directory: string, consumers: Map<string, Consumer>) {
    this.#directory = directory
    this.#consumers = consumers
  }

  /** Reads all cursors. LOG_CORRUPT when a file is not what was written. */
  static async open(logDirectory: string): Promise<ConsumerStore> {
    const directory = join(logDirectory, 'consumers')
    const consumers = new Map<string, Consumer>()
    try {
      await makeDirectoryDurably(directory)
      for (const file of await readdir(directory)) {
        const name = FILE.exec(file)?.[1]
        if (name !== undefined) consumers.set(name, parseConsumer(join(directory, file), name, await readFile(join(directory, file), 'utf8')))
        else if (file.endsWith('.json.new')) await rm(join(directory, file), { force: true })
      }
    } catch (error) {
      throw fromSystem(error, 'reading cursors of consumers')
    }
    return new ConsumerStore(directory, consumers)
  }

  get(name: string): Position | undefined {
    return this.#consumers.get(name)?.position
  }

  /** All of them, by name. */
  list(): Consumer[] {
    return [...this.#consumers.values()].sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  /** Moves a cursor, or makes one; durable after the next `flush`. BAD_REQUEST: not a name. TOO_MANY: no room for another. */
  set(name: string, { lsn, chain }: Position, now = new Date()): void {
    checkName(name)
    if (!this.#consumers.has(name) && this.#consumers.size >= MAX_CONSUMERS)
      throw new BeyondError('TOO_MANY', `There are ${MAX_CONSUMERS} durable consumers already: remove one that is no longer used.`)
    // A copy: the chain may be a view of a buffer that is used again. And a Buffer: avsc encodes no other bytes.
    this.#consumers.set(name, { name, position: { lsn, chain: Buffer.from(chain) }, updatedAt: now })
    this.#changed.add(name)
  }

  /** Forgets a consumer, so that the log is no longer kept for it; durable after the next `flush`. Answers whether there was one. */
  remove(name: string): boolean {
    checkName(name)
    if (!this.#consumers.delete(name)) return false
    this.#changed.add(name)
    return true
  }

  /** Resolves when everything set or removed before the call is durable. What fails stays to be written by the next flush. */
  flush(): Promise<void> {
    if (this.#next) return this.#next
    if (this.#changed.size === 0) return this.#flushing
    const next = this.#flushing
      .catch(() => {})
      .then(() => {
        this.#next = undefined
        return this.#write()
      })
    this.#next = this.#flushing = next
    // Whoever called is told; the next flush begins anew.
    next.catch(() => {})
    return next
  }

  async #write(): Promise<void> {
    const changed = this.#changed
    this.#changed = new Set()
    try {
      for (const name of changed) {
        const path = join(this.#directory, `${name}.json`)
        const consumer = this.#consumers.get(name)
        if (consumer) await replaceFile(path, formatConsumer(consumer))
        else await rm(path, { force: true })
      }
      await syncDirectory(this.#directory)
    } catch (error) {
      for (const name of changed) this.#changed.add(name)
      throw fromSystem(error, 'saving cursors of consumers')
    }
  }
}

function checkName(name: string): void {
  if (!NAME.test(name))
    throw new BeyondError('BAD_REQUEST', `${JSON.stringify(name.slice(0, 100))} is not a name of a consumer: use 1 to 63 of a-z, 0-9, _ and -.`)
}

function formatConsumer({ name, position, updatedAt }: Consumer): string {
  const value = { version: VERSION, name, lsn: formatLsn(position.lsn), chain: Buffer.from(position.chain).toString('hex'), updatedAt: updatedAt.toISOString() }
  return `${JSON.stringify(value, undefined, 2)}\n`
}

function parseConsumer(path: string, name: string, text: string): Consumer {
  const corrupt = (cause?: unknown) =>
    new BeyondError('LOG_CORRUPT', `${path} is not the cursor of a consumer: restore it, or remove it and let the consumer begin anew.`, { cause, facts: { path } })
  let value: Record<string, unknown>
  try {
    value = Object(JSON.parse(text)) as Record<string, unknown>
  } catch (error) {
    throw corrupt(error)
  }
  const { lsn, chain, updatedAt } = value
  const parsed = typeof lsn === 'string' ? parseLsn(lsn) : undefined
  const updated = new Date(typeof updatedAt === 'string' ? updatedAt : NaN)
  if (value['version'] !== VERSION || value['name'] !== name || !NAME.test(name) || parsed === undefined || typeof chain !== 'string' || !CHAIN.test(chain) || Number.isNaN(updated.getTime()))
    throw corrupt()
  return { name, position: { lsn: parsed, chain: Buffer.from(chain, 'hex') }, updatedAt: updated }
}

/**
 * Follows what the receiver writes: reads the bytes behind it, checks pages and records, and says how far they are whole.
 * One timeline; the caller decides about switches.
 */
import { open, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { toLsn, type Lsn } from '../wal/lsn.ts'
import { segmentFileName, segmentOf, segmentStart } from '../wal/segment-name.ts'
import type { Timeline } from '../wal/timeline.ts'
import { PAGE_BYTES } from '../wal/wal-page.ts'
import { WalScanner } from '../wal/wal-scanner.ts'
import type { WalPosition } from './sink.ts'

const CHUNK_BYTES = 1024 * 1024
const SETTLED_NS = 100_000_000n

export type FollowerOptions = {
  readonly directory: string
  readonly systemId: bigint
  readonly segmentBytes: number
  readonly timeline: Timeline
  readonly start: Lsn
  readonly lastRecord: Lsn | undefined
}

export type Advance = {
  /** Names of segments that are closed, and whole to their end. */
  readonly closed: readonly string[]
  /** A closed segment that is not what a primary wrote. */
  readonly corrupt: { readonly name: string; readonly fault: string; readonly at: Lsn } | undefined
}

export class WalFollower {
  readonly #options: FollowerOptions
  readonly #chunk = Buffer.allocUnsafe(CHUNK_BYTES)
  #scanner: WalScanner
  #lastRecord: Lsn | undefined
  /** Segments that were read to their end, until they are closed and what begins in them is whole. */
  readonly #read = new Map<string, Lsn>()
  /** The file as it was when nothing more could be read of it. */
  #exhausted: { readonly name: string; readonly mtimeNs: bigint } | undefined

  constructor(options: FollowerOptions) {
    this.#options = options
    this.#lastRecord = options.lastRecord
    this.#scanner = this.#newScanner(options.start)
  }

  get timeline(): Timeline {
    return this.#options.timeline
  }

  get position(): WalPosition {
    return { timeline: this.#options.timeline, lsn: this.#scanner.validEnd, lastRecord: this.#scanner.lastRecord ?? this.#lastRecord }
  }

  #newScanner(start: Lsn): WalScanner {
    const { systemId, segmentBytes, timeline } = this.#options
    return new WalScanner({ systemId, segmentBytes, timeline, start, ...(this.#lastRecord === undefined ? {} : { previous: this.#lastRecord }) })
  }

  #name(number: bigint): string {
    return segmentFileName({ timeline: this.#options.timeline, number }, this.#options.segmentBytes)
  }

  /** Reads all that is there. Not to be called again before it settles. */
  async advance(): Promise<Advance> {
    const corrupt = await this.#advance()
    const closed: string[] = []
    for (const [name, end] of this.#read)
      if (end <= this.#scanner.validEnd && (await this.#isClosed(name))) {
        closed.push(name)
        this.#read.delete(name)
      }
    return { closed, corrupt }
  }

  async #advance(): Promise<Advance['corrupt']> {
    const { segmentBytes } = this.#options
    for (;;) {
      const number = segmentOf(this.#scanner.position, segmentBytes)
      const name = this.#name(number)
      const file = await this.#open(name)
      if (!file) return undefined
      await using handle = file.handle
      const { mtimeNs } = await handle.stat({ bigint: true })
      if (!file.isClosed && this.#exhausted?.name === name && this.#exhausted.mtimeNs === mtimeNs) return undefined
      await this.#scan(handle, number)
      const { fault } = this.#scanner
      if (fault && file.isClosed) return { name, fault: fault.kind, at: fault.at }
      if (fault || segmentOf(this.#scanner.position, segmentBytes) === number) {
        this.#rewind()
        // The clock of the file system ticks too slowly to tell apart what was written just now.
        if (BigInt(Date.now()) * 1_000_000n - mtimeNs > SETTLED_NS) this.#exhausted = { name, mtimeNs }
        return undefined
      }
      this.#read.set(name, segmentStart(number + 1n, segmentBytes))
    }
  }

  /** What is not there yet looks like a fault: from the last whole record on it is looked at anew. */
  #rewind(): void {
    this.#lastRecord = this.#scanner.lastRecord ?? this.#lastRecord
    this.#scanner = this.#newScanner(this.#scanner.validEnd)
  }

  async #scan(handle: FileHandle, number: bigint): Promise<void> {
    const start = segmentStart(number, this.#options.segmentBytes)
    const page = this.#scanner.position - (this.#scanner.position % BigInt(PAGE_BYTES))
    for (let at = Number(page - start); at < this.#options.segmentBytes; at += CHUNK_BYTES) {
      const { bytesRead } = await handle.read(this.#chunk, 0, Math.min(CHUNK_BYTES, this.#options.segmentBytes - at), at)
      const address = toLsn(start + BigInt(at))
      if (bytesRead === 0 || !this.#scanner.scan(this.#chunk.subarray(0, bytesRead), address)) return
      // Behind a segment switch there is nothing to look at.
      if (this.#scanner.position >= start + BigInt(this.#options.segmentBytes)) return
    }
  }

  async #isClosed(name: string): Promise<boolean> {
    await using handle = await openIfThere(join(this.#options.directory, name))
    return handle !== undefined
  }

  async #open(name: string): Promise<{ readonly handle: FileHandle; readonly isClosed: boolean } | undefined> {
    const path = join(this.#options.directory, name)
    const closed = await openIfThere(path)
    if (closed) return { handle: closed, isClosed: true }
    const partial = await openIfThere(`${path}.partial`)
    if (partial) return { handle: partial, isClosed: false }
    // It may have been renamed between the two looks.
    const late = await openIfThere(path)
    return late && { handle: late, isClosed: true }
  }
}

export async function openIfThere(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, 'r')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

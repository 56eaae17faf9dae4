/**
 * The segments that are put away: immutable files, compressed, each with its checksum in front. `NAME.zst` is a segment as
 * the primary closed it; `NAME.s<generation>.zst` is the last one of a timeline, as a seal or a switch found it.
 *
 * A file is a 64-byte head, which is a skippable frame of zstd (so that `zstd -d` reads the whole), and the zstd stream.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, readdir, rename, rm, stat, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { constants, createZstdCompress, createZstdDecompress } from 'node:zlib'
import { makeDirectoryDurably, syncDirectory } from '../durable-file.ts'
import { BeyondError } from '../errors.ts'
import { toLsn, type Lsn } from '../wal/lsn.ts'
import { parseSegmentFileName, segmentStart } from '../wal/segment-name.ts'
import type { Timeline } from '../wal/timeline.ts'
import type { OpenObject } from './sink.ts'

const HEAD_BYTES = 64
/** https://datatracker.ietf.org/doc/html/rfc8878#name-skippable-frames */
const SKIPPABLE_MAGIC = 0x184d2a50
const OWN_MAGIC = 0x57475042
const VERSION = 1
const PIECE_BYTES = 256 * 1024

export type Stored = {
  readonly name: string
  readonly kind: 'closed' | 'sealed'
  /** Of a sealed one: a later one replaces it. */
  readonly generation: bigint
  readonly timeline: Timeline
  readonly start: Lsn
  /** End of the WAL in it. */
  readonly end: Lsn
  readonly bytes: number
  readonly storedBytes: number
  readonly sha256: string
  readonly path: string
}

export type NewSegment = Pick<Stored, 'name' | 'kind' | 'generation' | 'end' | 'bytes'>

export class SegmentStore {
  readonly #directory: string
  /** By name; of several the best is first. */
  readonly #stored = new Map<string, Stored[]>()
  #storedBytes = 0

  private constructor(directory: string) {
    this.#directory = directory
  }

  static async open(directory: string): Promise<SegmentStore> {
    await makeDirectoryDurably(directory)
    const store = new SegmentStore(directory)
    for (const file of await readdir(directory)) {
      if (file.endsWith('.new')) await rm(join(directory, file))
      else if (file.endsWith('.zst')) store.#add(await readHead(join(directory, file), file))
    }
    return store
  }

  get storedBytes(): number {
    return this.#storedBytes
  }

  get size(): number {
    return this.#stored.size
  }

  /** The best of each name, by timeline and start. */
  list(): Stored[] {
    return [...this.#stored.values()].map((all) => all[0]).sort((a, b) => a.timeline - b.timeline || (a.start < b.start ? -1 : 1))
  }

  get(name: string): Stored | undefined {
    return this.#stored.get(name)?.[0]
  }

  /** Durable when it settles. `source` gives `bytes` bytes. */
  async put({ name, kind, generation, end, bytes }: NewSegment, source: AsyncIterable<Buffer>): Promise<Stored> {
    const file = kind === 'closed' ? `${name}.zst` : `${name}.s${generation}.zst`
    const path = join(this.#directory, file)
    const beside = `${path}.new`
    const hash = createHash('sha256')
    let taken = 0
    const hashed = async function* () {
      for await (const piece of source) {
        hash.update(piece)
        taken += piece.length
        yield piece
      }
    }
    try {
      await using handle = await open(beside, 'w', 0o600)
      let at = HEAD_BYTES
      const compressed = Readable.from(hashed(), { objectMode: false }).compose(createZstdCompress({ params: { [constants.ZSTD_c_checksumFlag]: 1 } }))
      for await (const piece of compressed as AsyncIterable<Buffer>) {
        await handle.write(piece, 0, piece.length, at)
        at += piece.length
      }
      if (taken !== bytes) throw new BeyondError('WAL_CORRUPT', `The segment ${name} has ${taken} bytes instead of ${bytes}.`, { facts: { name } })
      const sha256 = hash.digest()
      await handle.write(formatHead({ bytes, end, sha256 }), 0, HEAD_BYTES, 0)
      await handle.sync()
      await rename(beside, path)
      await syncDirectory(this.#directory)
      const stored = { ...describe(file, bytes), end, storedBytes: at, sha256: sha256.toString('hex'), path }
      this.#add(stored)
      return stored
    } catch (error) {
      await rm(beside, { force: true })
      throw error
    }
  }

  async remove(name: string): Promise<void> {
    for (const { path, storedBytes } of this.#stored.get(name) ?? []) {
      await rm(path, { force: true })
      this.#storedBytes -= storedBytes
    }
    this.#stored.delete(name)
  }

  /** Moves it out of what is served. */
  async quarantine(stored: Stored, directory: string): Promise<void> {
    await makeDirectoryDurably(directory)
    await rename(stored.path, join(directory, `${stored.name}.${Date.now()}.zst`))
    await syncDirectory(directory)
    await syncDirectory(this.#directory)
    const rest = (this.#stored.get(stored.name) ?? []).filter((other) => other !== stored)
    this.#storedBytes -= stored.storedBytes
    if (rest.length > 0) this.#stored.set(stored.name, rest)
    else this.#stored.delete(stored.name)
  }

  #add(stored: Stored): void {
    const all = (this.#stored.get(stored.name) ?? []).filter((other) => {
      if (other.path !== stored.path) return true
      this.#storedBytes -= other.storedBytes
      return false
    })
    all.push(stored)
    all.sort((a, b) => Number(b.kind === 'closed') - Number(a.kind === 'closed') || (a.generation > b.generation ? -1 : 1))
    this.#stored.set(stored.name, all)
    this.#storedBytes += stored.storedBytes
  }
}

/** Opens it for reading; it can be removed meanwhile. */
export async function openStored(stored: Stored): Promise<OpenObject> {
  const handle = await open(stored.path, 'r')
  return {
    bytes: stored.bytes,
    etag: stored.sha256,
    sha256: stored.sha256,
    kind: stored.kind,
    read: (start, end) => readRange(handle, start, end),
    zstd: { bytes: stored.storedBytes - HEAD_BYTES, read: () => fileStream(handle) },
    [Symbol.asyncDispose]: () => handle.close(),
  }
}

const fileStream = (handle: FileHandle): Readable => createReadStream('', { fd: handle, start: HEAD_BYTES, autoClose: false, highWaterMark: PIECE_BYTES })

/** Bytes [start, end) of what is compressed: all before them is decompressed as well, and thrown away. */
async function* readRange(handle: FileHandle, start: number, end: number): AsyncIterable<Buffer> {
  let at = 0
  const plain = fileStream(handle).compose(createZstdDecompress()) as AsyncIterable<Buffer>
  for await (const piece of plain) {
    const from = Math.max(0, start - at)
    const to = Math.min(piece.length, end - at)
    if (from < to) yield piece.subarray(from, to)
    at += piece.length
    if (at >= end) return
  }
}

function formatHead({ bytes, end, sha256 }: { bytes: number; end: Lsn; sha256: Buffer }): Buffer {
  const head = Buffer.alloc(HEAD_BYTES)
  head.writeUInt32LE(SKIPPABLE_MAGIC, 0)
  head.writeUInt32LE(HEAD_BYTES - 8, 4)
  head.writeUInt32LE(OWN_MAGIC, 8)
  head.writeUInt32LE(VERSION, 12)
  head.writeBigUInt64LE(BigInt(bytes), 16)
  head.writeBigUInt64LE(end, 24)
  sha256.copy(head, 32)
  return head
}

async function readHead(path: string, file: string): Promise<Stored> {
  const head = Buffer.alloc(HEAD_BYTES)
  await using handle = await open(path, 'r')
  await handle.read(head, 0, HEAD_BYTES, 0)
  if (head.readUInt32LE(0) !== SKIPPABLE_MAGIC || head.readUInt32LE(8) !== OWN_MAGIC || head.readUInt32LE(12) !== VERSION)
    throw new BeyondError('WAL_CORRUPT', `${path} is not a segment that this sink wrote: move it away.`, { facts: { path } })
  const bytes = Number(head.readBigUInt64LE(16))
  const { size } = await stat(path)
  return { ...describe(file, bytes), end: toLsn(head.readBigUInt64LE(24)), storedBytes: size, sha256: head.toString('hex', 32), path }
}

function describe(file: string, bytes: number): Omit<Stored, 'end' | 'storedBytes' | 'sha256' | 'path'> {
  const match = /^([0-9A-F]{24})(?:\.s(\d+))?\.zst$/.exec(file)
  const segment = match && parseSegmentFileName(match[1], bytes)
  if (!match || !segment) throw new BeyondError('WAL_CORRUPT', `${file} is not the name of a segment of ${bytes} bytes: move it away.`)
  return {
    name: match[1],
    kind: match[2] === undefined ? 'closed' : 'sealed',
    generation: BigInt(match[2] ?? 0),
    timeline: segment.timeline,
    start: segmentStart(segment.number, bytes),
    bytes,
  }
}

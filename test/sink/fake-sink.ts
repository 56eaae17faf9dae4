/** A sink in memory for tests of those who serve and ask it. */
import { createHash } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { zstdCompressSync } from 'node:zlib'
import { BeyondError } from '../../src/errors.ts'
import { toLsn } from '../../src/wal/lsn.ts'
import { parseSegmentFileName, segmentStart } from '../../src/wal/segment-name.ts'
import { parseHistoryFileName, type Timeline } from '../../src/wal/timeline.ts'
import type { AttachRequest, OpenObject, Pin, SealRequest, SegmentInfo, SegmentKind, Sink, SinkProgress, SinkStatus, WalPosition } from '../../src/sink/sink.ts'
import { SEGMENT_BYTES, SYSTEM_ID } from './fake-wal.ts'

const PIECE = 64 * 1024
export const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')

type Held = { readonly bytes: Buffer; readonly kind: SegmentKind; readonly end: bigint | undefined; readonly digest: boolean; readonly zstd: boolean }

export class FakeSink implements Sink {
  readonly held = new Map<string, Held>()
  readonly kept = new Map<string, Buffer>()
  readonly pinned = new Map<string, Pin>()
  readonly calls: unknown[] = []
  readonly events = new EventEmitter()
  /** Objects that were opened and not closed. */
  open = 0
  facts: Partial<SinkStatus> = {}
  segmentBytes = SEGMENT_BYTES

  hold(name: string, bytes: Buffer, { kind = 'closed' as SegmentKind, end = undefined as bigint | undefined, digest = true, zstd = false } = {}): void {
    this.held.set(name, { bytes, kind, end, digest, zstd })
  }

  /** As after a seal that nobody has attached since. */
  seals(timeline: number, lsn: bigint, generation = 5n): void {
    const position = { timeline: timeline as Timeline, lsn: toLsn(lsn), lastRecord: undefined }
    this.facts = { ...this.facts, activity: 'sealed', generation: generation - 1n, seal: { generation, by: 'box', at: '2030-01-01T00:00:00Z', position } }
  }

  status(): SinkStatus {
    return {
      sinkId: 'fake', name: 'sink_a', version: '0', activity: 'streaming', problem: undefined, systemId: SYSTEM_ID, generation: 4n, seal: undefined,
      segmentBytes: this.segmentBytes, flushed: { timeline: 1 as Timeline, lsn: toLsn(0x5000000n), lastRecord: undefined },
      coverageStart: toLsn(0x1000000n), floor: undefined, segments: this.held.size, storedBytes: 1, freeBytes: 2, receiverRestarts: 0, quarantined: 0,
      ...this.facts,
    }
  }

  async segments(): Promise<readonly SegmentInfo[]> {
    return [...this.held].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, { bytes, kind, end, digest }]) => {
      const { timeline, number } = parseSegmentFileName(name, this.segmentBytes)!
      const start = segmentStart(number, this.segmentBytes)
      return { name, kind, timeline, start, end: toLsn(end ?? start + BigInt(this.segmentBytes)), bytes: bytes.length, storedBytes: bytes.length, sha256: digest ? sha256(bytes) : undefined }
    })
  }

  async histories() {
    return [...this.kept].map(([name, bytes]) => ({ name, timeline: parseHistoryFileName(name)!, bytes: bytes.length, sha256: sha256(bytes) }))
  }

  async openSegment(name: string): Promise<OpenObject> {
    const held = this.held.get(name)
    if (!held) throw new BeyondError('NOT_FOUND', `Segment ${name} is not held.`)
    return this.#object(held.bytes, held.kind, held)
  }

  async openHistory(name: string): Promise<OpenObject> {
    const bytes = this.kept.get(name)
    if (!bytes) throw new BeyondError('NOT_FOUND', `History ${name} is not held.`)
    return this.#object(bytes, 'history', { digest: true, zstd: false })
  }

  #object(bytes: Buffer, kind: SegmentKind | 'history', { digest, zstd }: { digest: boolean; zstd: boolean }): OpenObject {
    this.open++
    const compressed = zstd ? zstdCompressSync(bytes) : undefined
    return {
      bytes: bytes.length, etag: sha256(bytes).slice(0, 32), sha256: digest ? sha256(bytes) : undefined, kind,
      read: (start, end) => pieces(bytes.subarray(start, end)),
      zstd: compressed && { bytes: compressed.length, read: () => pieces(compressed) },
      [Symbol.asyncDispose]: async () => void this.open--,
    }
  }

  async putHistory(name: string, content: Buffer): Promise<void> {
    if (this.kept.has(name) && !this.kept.get(name)!.equals(content)) throw new BeyondError('HISTORY_DIVERGED', `${name} is taken.`)
    this.kept.set(name, content)
  }

  async seal(request: SealRequest) {
    this.calls.push(['seal', request])
    if (request.generation < 4n) throw new BeyondError('STALE_GENERATION', 'A later generation has sealed this sink.')
    const position: WalPosition = { timeline: 1 as Timeline, lsn: toLsn(0x5000060n), lastRecord: toLsn(0x5000028n) }
    return { seal: { ...request, at: '2030-01-01T00:00:00Z', position }, position }
  }

  async attach(request: AttachRequest): Promise<void> {
    this.calls.push(['attach', request])
  }

  pins(): readonly Pin[] {
    return [...this.pinned.values()]
  }

  async setPin(pin: Pin): Promise<void> {
    this.pinned.set(pin.name, pin)
  }

  async removePin(name: string): Promise<void> {
    if (!this.pinned.delete(name)) throw new BeyondError('NOT_FOUND', `There is no pin ${name}.`)
  }

  async verify() {
    return { segments: this.held.size, bytes: 1, faults: [], gaps: [{ start: toLsn(0x1000000n), end: toLsn(0x2000000n) }] }
  }

  onProgress(listener: (progress: SinkProgress) => void): () => void {
    this.events.on('progress', listener)
    return () => void this.events.off('progress', listener)
  }
}

async function* pieces(bytes: Buffer): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += PIECE) yield bytes.subarray(at, at + PIECE)
}

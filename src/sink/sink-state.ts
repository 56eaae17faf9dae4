/**
 * What a sink must remember: who it is, whose WAL it keeps, which generation it serves, and how far it has confirmed.
 * One small file, replaced whole and fsynced, with a checksum. A file that is damaged is an error, never a fresh start:
 * a sink that forgot its seal would let an old primary go on.
 */
import { createHash, randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writeFileDurably } from '../durable-file.ts'
import { BeyondError, fromSystem } from '../errors.ts'
import { formatLsn, lsnFromServer, type Lsn } from '../wal/lsn.ts'
import { toTimeline, type Timeline } from '../wal/timeline.ts'
import type { GenerationState } from './generation.ts'
import type { Pin, PrimaryConninfo, WalPosition } from './sink.ts'

export type SinkState = {
  readonly sinkId: string
  readonly name: string
  readonly systemId: bigint | undefined
  readonly segmentBytes: number | undefined
  readonly generation: GenerationState
  /** Of the primary that was attached last; it stays while sealed. */
  readonly attached: bigint
  /** The last generation whose WAL has come in: its slot knows how much was confirmed. */
  readonly streamed: bigint
  readonly conninfo: PrimaryConninfo | undefined
  readonly seal: { readonly generation: bigint; readonly by: string; readonly at: string; readonly position: WalPosition | undefined } | undefined
  /** Verified and fsynced: the sink must never be found with less. */
  readonly flushed: WalPosition | undefined
  readonly coverageStart: Lsn | undefined
  readonly pins: readonly Pin[]
}

const FILE = 'sink.json'
const VERSION = 1

export const newState = (name: string): SinkState => ({
  sinkId: randomUUID(),
  name,
  systemId: undefined,
  segmentBytes: undefined,
  generation: { at: 'new' },
  attached: 0n,
  streamed: 0n,
  conninfo: undefined,
  seal: undefined,
  flushed: undefined,
  coverageStart: undefined,
  pins: [],
})

const digest = (text: string): string => createHash('sha256').update(text).digest('hex')
const toJson = (_key: string, value: unknown): unknown => (typeof value === 'bigint' ? String(value) : value)

export async function writeState(directory: string, state: SinkState): Promise<void> {
  const { flushed, coverageStart, pins, seal } = state
  const content = JSON.stringify(
    {
      ...state,
      flushed: flushed && positionToJson(flushed),
      seal: seal && { ...seal, position: seal.position && positionToJson(seal.position) },
      coverageStart: coverageStart === undefined ? undefined : formatLsn(coverageStart),
      pins: pins.map((pin) => ({ ...pin, lsn: formatLsn(pin.lsn) })),
    },
    toJson,
  )
  await writeFileDurably(join(directory, FILE), `${JSON.stringify({ version: VERSION, sha256: digest(content), state: content })}\n`)
}

/** undefined: there is none. Throws DATA_LOST for one that can't be read. */
export async function readState(directory: string): Promise<SinkState | undefined> {
  const path = join(directory, FILE)
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw fromSystem(error, 'reading the state of the sink')
  }
  try {
    const { version, sha256, state } = JSON.parse(text) as { version: number; sha256: string; state: string }
    if (version === VERSION && sha256 === digest(state)) return fromJson(JSON.parse(state) as JsonState)
  } catch {
    // Said below.
  }
  throw new BeyondError('DATA_LOST', `The state of the sink, ${path}, is damaged or of another version: put its folder aside and begin with an empty one.`, { facts: { path } })
}

type JsonPosition = { readonly timeline: number; readonly lsn: string; readonly lastRecord?: string }
type JsonClaim = { readonly generation: string; readonly by: string }
type JsonState = {
  readonly sinkId: string
  readonly name: string
  readonly systemId?: string
  readonly segmentBytes?: number
  readonly generation: { readonly at: 'new' | 'attached' | 'sealed'; readonly claim?: JsonClaim; readonly from?: string }
  readonly attached: string
  readonly streamed: string
  readonly conninfo?: PrimaryConninfo
  readonly seal?: JsonClaim & { readonly at: string; readonly position?: JsonPosition }
  readonly flushed?: JsonPosition
  readonly coverageStart?: string
  readonly pins: readonly { readonly name: string; readonly lsn: string; readonly expiresAt?: string }[]
}

const positionToJson = ({ timeline, lsn, lastRecord }: WalPosition): JsonPosition => ({
  timeline,
  lsn: formatLsn(lsn),
  ...(lastRecord === undefined ? {} : { lastRecord: formatLsn(lastRecord) }),
})

const positionFrom = ({ timeline, lsn, lastRecord }: JsonPosition): WalPosition => ({
  timeline: toTimeline(timeline) as Timeline,
  lsn: lsnFromServer(lsn),
  lastRecord: lastRecord === undefined ? undefined : lsnFromServer(lastRecord),
})

function generationFrom({ at, claim, from }: JsonState['generation']): GenerationState {
  if (at === 'new' || !claim) return { at: 'new' }
  const read = { generation: BigInt(claim.generation), by: claim.by }
  return at === 'attached' ? { at, claim: read } : { at, claim: read, from: BigInt(from ?? 0) }
}

function fromJson(json: JsonState): SinkState {
  const { seal, flushed, coverageStart, systemId } = json
  return {
    sinkId: json.sinkId,
    name: json.name,
    systemId: systemId === undefined ? undefined : BigInt(systemId),
    segmentBytes: json.segmentBytes,
    generation: generationFrom(json.generation),
    attached: BigInt(json.attached),
    streamed: BigInt(json.streamed),
    conninfo: json.conninfo,
    seal: seal && { ...seal, generation: BigInt(seal.generation), position: seal.position && positionFrom(seal.position) },
    flushed: flushed && positionFrom(flushed),
    coverageStart: coverageStart === undefined ? undefined : lsnFromServer(coverageStart),
    pins: json.pins.map(({ name, lsn, expiresAt }) => ({ name, lsn: lsnFromServer(lsn), expiresAt })),
  }
}

/** What a volume holds while no Postgres runs on it: what pg_control says, and where its own WAL ends. Reads only. */
import { type FileHandle, open, readdir, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { BeyondError } from '../errors.ts'
import { parseLsn, toLsn, type Lsn } from '../wal/lsn.ts'
import { parseSegmentFileName, segmentFileName, segmentOf, segmentStart } from '../wal/segment-name.ts'
import { type HistoryEntry, historyFileName, parseHistory, type Timeline, toTimeline } from '../wal/timeline.ts'
import { PAGE_BYTES } from '../wal/wal-page.ts'
import { WalScanner } from '../wal/wal-scanner.ts'
import type { Layout } from './layout.ts'
import type { Programs } from './programs.ts'
import { runOnce } from './run-once.ts'

export type ControlData = {
  readonly systemId: bigint
  readonly segmentBytes: number
  readonly timeline: Timeline
  readonly redo: Lsn
}

const CONTROL_MS = 10_000
const PIECE_BYTES = 1024 * 1024

/** Reads the output of pg_controldata, in English; undefined when something is missing. Pure. */
export function parseControlData(text: string): ControlData | undefined {
  const field = (name: string): string => new RegExp(`^${name}:\\s+(\\S+)$`, 'm').exec(text)?.[1] ?? ''
  const systemId = field('Database system identifier')
  const timeline = toTimeline(Number(field("Latest checkpoint's TimeLineID")))
  const redo = parseLsn(field("Latest checkpoint's REDO location"))
  const segmentBytes = Number(field('Bytes per WAL segment'))
  return /^\d+$/.test(systemId) && timeline && redo !== undefined && segmentBytes > 0 ? { systemId: BigInt(systemId), segmentBytes, timeline, redo } : undefined
}

export async function readControlData(layout: Layout, programs: Programs, environment: Readonly<Record<string, string>>, signal: AbortSignal): Promise<ControlData> {
  const lines: string[] = []
  const outcome = await runOnce({
    program: join(dirname(programs.postgres), 'pg_controldata'),
    args: ['-D', layout.postgres],
    environment: { ...environment, LC_ALL: 'C' },
    onLine: (line) => lines.push(line),
    signal,
    withinMs: CONTROL_MS,
  })
  const data = parseControlData(lines.join('\n'))
  if (outcome.code === 0 && data && !lines.some((line) => /^(pg_controldata: )?warning/i.test(line))) return data
  throw new BeyondError('DATA_DIRECTORY', `pg_controldata can't read ${layout.postgres}: start from another copy of the volume.`, { facts: { path: layout.postgres } })
}

/** How the timeline came about, by the file that Postgres keeps beside its WAL. */
export async function localHistory(layout: Layout, timeline: Timeline): Promise<readonly HistoryEntry[]> {
  if (timeline === 1) return []
  const path = join(layout.postgres, 'pg_wal', historyFileName(timeline))
  const text = await readFile(path, 'utf8').catch(() => undefined)
  const history = text === undefined ? undefined : parseHistory(text, timeline)
  if (history) return history
  throw new BeyondError('DATA_DIRECTORY', `${path} is missing or damaged: start from another copy of the volume.`, { facts: { path } })
}

/** Behind the last whole record of the WAL that goes on from `redo`; `redo` itself where not even its record is there. */
export async function localWalEnd(directory: string, { systemId, segmentBytes, timeline, redo }: ControlData, signal: AbortSignal): Promise<Lsn> {
  const files = await newestFiles(directory, segmentBytes, timeline)
  const scanner = new WalScanner({ systemId, segmentBytes, timeline, start: redo })
  for (let number = segmentOf(redo, segmentBytes); files.has(number); number++) {
    await using file = await open(join(directory, files.get(number) ?? ''), 'r')
    const start = segmentStart(number, segmentBytes)
    if (!(await scanFile(file, start, segmentBytes, scanner, signal))) break
  }
  return scanner.validEnd
}

async function scanFile(file: FileHandle, start: Lsn, segmentBytes: number, scanner: WalScanner, signal: AbortSignal): Promise<boolean> {
  const from = scanner.position > start ? Number(scanner.position - start) : 0
  for (let at = from - (from % PAGE_BYTES); at < segmentBytes; ) {
    signal.throwIfAborted()
    const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, segmentBytes - at))
    const { bytesRead } = await file.read(piece, 0, piece.length, at)
    const whole = bytesRead - (bytesRead % PAGE_BYTES)
    if (whole === 0 || !scanner.scan(piece.subarray(0, whole), toLsn(start + BigInt(at)))) return false
    at += whole
  }
  return true
}

/** By segment number, of the newest timeline up to this one. */
async function newestFiles(directory: string, segmentBytes: number, timeline: Timeline): Promise<ReadonlyMap<bigint, string>> {
  const newest = new Map<bigint, Timeline>()
  for (const name of await readdir(directory)) {
    const segment = parseSegmentFileName(name, segmentBytes)
    if (segment && segment.timeline <= timeline && segment.timeline > (newest.get(segment.number) ?? 0)) newest.set(segment.number, segment.timeline)
  }
  return new Map([...newest].map(([number, each]) => [number, segmentFileName({ timeline: each, number }, segmentBytes)]))
}

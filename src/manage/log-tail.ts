/**
 * Reads the log of a box from its end, and goes on as it grows: the last lines, then each new one. Follows the file when it is
 * put aside (FILE becomes FILE.1, a new FILE begins). Memory is bounded by what is read at a time.
 */
import { type FileHandle, open, stat } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { fromSystem } from '../errors.ts'
import { LineSplitter } from './log-line.ts'

export type LogLines = {
  /** Lines to begin with, at most. */
  readonly lines: number
  readonly follow: boolean
  /** Lines that are wanted. */
  readonly wanted: (line: string) => boolean
}

const CHUNK_BYTES = 64 * 1024
/** Looking for the first lines goes back no further. */
const MAX_BACK_BYTES = 16 * 1024 * 1024
const LOOK_AGAIN_MS = 200

/** Each line in order, to `emit`, which slows the reading down. Ends at the end of the log, or, when it follows, with the signal. */
export async function tailLog(path: string, { lines, follow, wanted }: LogLines, emit: (line: string) => Promise<void>, signal: AbortSignal): Promise<void> {
  let file = await openLog(path)
  try {
    let at = await tellLast(file, lines, wanted, emit)
    if (!follow) return
    const pending: string[] = []
    const splitter = new LineSplitter((line) => pending.push(line))
    const decoder = new TextDecoder()
    const buffer = Buffer.allocUnsafe(CHUNK_BYTES)
    for (;;) {
      signal.throwIfAborted()
      const { bytesRead } = await file.read(buffer, 0, CHUNK_BYTES, at)
      at += bytesRead
      splitter.push(decoder.decode(buffer.subarray(0, bytesRead), { stream: true }))
      for (const line of pending.splice(0)) if (wanted(line)) await emit(line)
      if (bytesRead > 0) continue
      const next = await successor(file, path)
      if (next) {
        await file.close()
        file = next
        at = 0
      } else await sleep(LOOK_AGAIN_MS, undefined, { signal })
    }
  } finally {
    await file.close()
  }
}

/** The file that has taken the place of this one, when one has and this one has been read to its end. */
async function successor(file: FileHandle, path: string): Promise<FileHandle | undefined> {
  const now = await stat(path).catch(() => undefined)
  const { ino, dev } = await file.stat()
  if (!now || (now.ino === ino && now.dev === dev)) return undefined
  return openLog(path)
}

/** Tells the last lines that are wanted; returns where the next line begins. */
async function tellLast(file: FileHandle, count: number, wanted: (line: string) => boolean, emit: (line: string) => Promise<void>): Promise<number> {
  const { size } = await file.stat()
  const found: string[] = []
  // Lines are cut at bytes, not at characters: a chunk may begin in the middle of one.
  let rest: Buffer = Buffer.alloc(0)
  /** Where the line begins that is being written; undefined until the end of the one before is found. */
  let from: number | undefined
  for (let at = size; at > 0 && found.length < count && size - at < MAX_BACK_BYTES; ) {
    const length = Math.min(CHUNK_BYTES, at)
    at -= length
    const chunk = Buffer.allocUnsafe(length)
    await file.read(chunk, 0, length, at)
    rest = Buffer.concat([chunk, rest])
    if (from === undefined) {
      const last = rest.lastIndexOf(0x0a)
      if (last === -1) continue
      from = at + last + 1
      rest = rest.subarray(0, last)
    }
    for (let cut = rest.lastIndexOf(0x0a); found.length < count && cut !== -1; cut = rest.lastIndexOf(0x0a)) {
      const line = rest.subarray(cut + 1).toString()
      if (wanted(line)) found.push(line)
      rest = rest.subarray(0, cut)
    }
    if (at === 0 && from !== undefined && found.length < count && rest.length > 0) {
      const line = rest.toString()
      if (wanted(line)) found.push(line)
    }
  }
  for (const line of found.reverse()) await emit(line)
  return from ?? 0
}

async function openLog(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r')
  } catch (error) {
    throw fromSystem(error, 'reading the log')
  }
}

/** Lines of the log, from this level on. pino's numbers. */
const LEVELS = { debug: 20, info: 30, warn: 40, error: 50 } as const
export type LogLevel = keyof typeof LEVELS

/** `child` box: what the supervisor itself says. */
export function logFilter(child: string | undefined, level: LogLevel | undefined): (line: string) => boolean {
  if (child === undefined && level === undefined) return () => true
  return (line) => {
    try {
      const event = JSON.parse(line) as { level?: number; child?: string }
      return (child === undefined || (event.child ?? 'box') === child) && (level === undefined || (event.level ?? 0) >= LEVELS[level])
    } catch {
      return false
    }
  }
}

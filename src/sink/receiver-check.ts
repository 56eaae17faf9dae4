/**
 * What is looked at before the receiver starts: that the primary is the one whose WAL we keep, that it goes on where we
 * are, and that the files are such that pg_receivewal takes them.
 */
import { constants, copyFile, open, readdir, rename, rm, stat, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { makeDirectoryDurably, syncDirectory } from '../durable-file.ts'
import { BeyondError } from '../errors.ts'
import { formatLsn, type Lsn } from '../wal/lsn.ts'
import type { Primary, PrimaryIdentity } from '../wal/primary.ts'
import { parseSegmentFileName, segmentFileName, segmentOf, segmentStart } from '../wal/segment-name.ts'
import { formatTimeline, leftAt, parseHistory, toTimeline } from '../wal/timeline.ts'
import { checkPageHeader, LONG_HEADER_BYTES, PAGE_BYTES } from '../wal/wal-page.ts'
import type { WalPosition } from './sink.ts'

export type Known = { readonly systemId: bigint | undefined; readonly segmentBytes: number | undefined; readonly flushed: WalPosition | undefined }

/** Throws WRONG_SYSTEM or HISTORY_DIVERGED for a primary that we must not follow. `history` is that of its timeline, if it has one. */
export function checkPrimary(primary: PrimaryIdentity, history: Buffer | undefined, { systemId, segmentBytes, flushed }: Known): void {
  if (systemId !== undefined && primary.systemId !== systemId)
    throw new BeyondError('WRONG_SYSTEM', `The primary is the cluster ${primary.systemId}, and this sink keeps the WAL of ${systemId}: give each cluster a sink of its own.`)
  if (segmentBytes !== undefined && primary.segmentBytes !== segmentBytes)
    throw new BeyondError('WRONG_SYSTEM', `The primary writes segments of ${primary.segmentBytes} bytes, and this sink keeps segments of ${segmentBytes}.`)
  if (!flushed) return
  const entries = history === undefined ? [] : parseHistory(history.toString(), primary.timeline)
  const left = entries && leftAt(entries, primary.timeline, flushed.timeline)
  if (left === undefined || (left !== 'never' && left < flushed.lsn))
    throw new BeyondError(
      'HISTORY_DIVERGED',
      `The primary's timeline ${primary.timeline} does not go on where this sink is, at ${formatLsn(flushed.lsn)} of timeline ${flushed.timeline}: it lacks WAL that was confirmed.`,
    )
  if (primary.flushed < flushed.lsn)
    throw new BeyondError(
      'HISTORY_DIVERGED',
      `The primary has WAL up to ${formatLsn(primary.flushed)} only, and this sink confirmed ${formatLsn(flushed.lsn)}: its volume is an older state, which needs a recovery from the sinks.`,
    )
}

/** Fetches every history file that we lack, up to `timeline`. */
export async function backfillHistories(primary: Primary, upTo: number, has: (timeline: number) => boolean, keep: (timeline: number, content: Buffer) => Promise<void>): Promise<void> {
  for (let number = 2; number <= upTo; number++) {
    const timeline = toTimeline(number)
    if (!timeline || has(number)) continue
    const content = await primary.history(timeline)
    // Timelines that were skipped, or whose file is gone: only that of the primary itself must be there.
    if (content) await keep(number, content)
    else if (number === upTo) throw new BeyondError('HISTORY_DIVERGED', `The primary has no history of its own timeline ${formatTimeline(timeline)}.`)
  }
}

/**
 * Whether the byte before `lsn`, of a slot that never moves beyond what we confirmed, is here. `valid` is the end of the
 * last whole record; what was confirmed may end inside the next one.
 */
export async function holdsConfirmed(directory: string, systemId: bigint, segmentBytes: number, valid: WalPosition, lsn: Lsn): Promise<boolean> {
  if (lsn <= valid.lsn) return true
  const header = Buffer.alloc(LONG_HEADER_BYTES)
  const readAt = async (at: Lsn, bytes: number): Promise<boolean> => {
    const number = segmentOf(at, segmentBytes)
    const name = segmentFileName({ timeline: valid.timeline, number }, segmentBytes)
    for (const path of [name, `${name}.partial`]) {
      const file = await open(join(directory, path), 'r').catch(() => undefined)
      if (!file) continue
      await using open_ = file
      return (await open_.read(header, 0, bytes, Number(at - segmentStart(number, segmentBytes)))).bytesRead === bytes
    }
    return false
  }
  // A segment that was begun and then padded: nothing of it was confirmed but its pages' headers.
  const page = (lsn - 1n - ((lsn - 1n) % BigInt(PAGE_BYTES))) as Lsn
  if (valid.lsn > page) return (await readAt(valid.lsn, 4)) && header.readUInt32LE(0) !== 0
  if (!(await readAt(page, LONG_HEADER_BYTES))) return false
  return checkPageHeader(header, 0, { address: page, systemId, segmentBytes, minTimeline: 1, maxTimeline: valid.timeline }) === undefined
}

/**
 * Makes the receiver's folder fit to start in: a partial file of another size than a segment's is one whose padding failed
 * (no WAL was in it yet); the newest one is set aside, since it is written again from its first byte. Answers the name
 * that was set aside.
 */
export async function prepareFolder(directory: string, aside: string, segmentBytes: number): Promise<string | undefined> {
  await makeDirectoryDurably(aside)
  const partials: string[] = []
  for (const file of await readdir(directory)) {
    const name = file.endsWith('.partial') ? file.slice(0, -'.partial'.length) : undefined
    if (name === undefined || !parseSegmentFileName(name, segmentBytes)) continue
    const { size } = await stat(join(directory, file))
    if (size !== segmentBytes) await truncate(join(directory, file), 0)
    else partials.push(name)
  }
  const newest = partials.sort((a, b) => (a.slice(8) === b.slice(8) ? (a < b ? -1 : 1) : a.slice(8) < b.slice(8) ? -1 : 1)).at(-1)
  if (newest === undefined) return undefined
  const path = join(aside, newest)
  // A copy that is still there was never overtaken, so it is the one with all that was confirmed.
  if (await stat(path).then(() => true, () => false)) return newest
  for (const other of await readdir(aside)) await rm(join(aside, other), { force: true })
  await copyFile(join(directory, `${newest}.partial`), `${path}.new`, constants.COPYFILE_FICLONE)
  await using copy = await open(`${path}.new`, 'r')
  await copy.sync()
  await rename(`${path}.new`, path)
  await syncDirectory(aside)
  return newest
}

/**
 * Timelines and their history files. Pure.
 * Source: https://www.postgresql.org/docs/18/continuous-archiving.html#BACKUP-TIMELINES, src/backend/access/transam/timeline.c
 */
import { parseLsn, type Lsn } from './lsn.ts'

export type Timeline = number & { readonly __brand: 'Timeline' }

const MAX = 0xffffffff

export function toTimeline(value: number): Timeline | undefined {
  return Number.isInteger(value) && value >= 1 && value <= MAX ? (value as Timeline) : undefined
}

/** `0000000A`, as in file names. */
export const formatTimeline = (timeline: Timeline): string => timeline.toString(16).toUpperCase().padStart(8, '0')

/** A timeline that this one descends from, and the LSN at which the next one left it. */
export type HistoryEntry = { readonly timeline: Timeline; readonly switchedAt: Lsn; readonly reason: string }

export const historyFileName = (timeline: Timeline): string => `${formatTimeline(timeline)}.history`

export function parseHistoryFileName(name: string): Timeline | undefined {
  const match = /^([0-9A-F]{8})\.history$/.exec(name)
  return match ? toTimeline(Number.parseInt(match[1], 16)) : undefined
}

/**
 * Reads the content of `<timeline>.history`: its ancestors, oldest first. undefined when the text is not one: a line that
 * is not "parent, switch point, reason", or timelines that do not rise up to `timeline`.
 */
export function parseHistory(text: string, timeline: Timeline): HistoryEntry[] | undefined {
  const entries: HistoryEntry[] = []
  for (const line of text.split('\n')) {
    if (/^\s*(#.*)?$/.test(line)) continue
    const match = /^\s*(\d+)\s+([0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8})\s*(.*)$/.exec(line)
    const parent = match && toTimeline(Number(match[1]))
    const switchedAt = match && parseLsn(match[2])
    const previous = entries.at(-1)
    if (!match || !parent || switchedAt === undefined || switchedAt === null) return undefined
    if (previous && (parent <= previous.timeline || switchedAt < previous.switchedAt)) return undefined
    entries.push({ timeline: parent, switchedAt, reason: match[3] })
  }
  const last = entries.at(-1)
  return last && last.timeline >= timeline ? undefined : entries
}

/** Where `descendant`, whose history this is, left `ancestor`; undefined when it does not descend from it. Itself: never left. */
export function leftAt(history: readonly HistoryEntry[], descendant: Timeline, ancestor: Timeline): Lsn | 'never' | undefined {
  if (descendant === ancestor) return 'never'
  return history.find(({ timeline }) => timeline === ancestor)?.switchedAt
}

/** The timeline that wrote the byte at `lsn` in the history of `timeline`. */
export function timelineAt(history: readonly HistoryEntry[], timeline: Timeline, lsn: Lsn): Timeline {
  return history.find(({ switchedAt }) => lsn < switchedAt)?.timeline ?? timeline
}

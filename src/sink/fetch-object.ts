/** One file for Postgres from whichever sinks have it, with patience: what fails is tried again until a deadline. */
import { rm } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { backoffMs } from '../backoff.ts'
import { BeyondError } from '../errors.ts'
import { MIN_SEGMENT_BYTES, parseSegmentFileName } from '../wal/segment-name.ts'
import { parseHistoryFileName } from '../wal/timeline.ts'
import type { SinkClient } from './fetch-client.ts'
import { judge, type SinkAnswer, type Verdict } from './fetch-verdict.ts'

export type FetchSource = {
  readonly sinks: readonly SinkClient[]
  /** How many of them must answer before the end of WAL is believed: see fetch-verdict.ts. */
  readonly needed: number
  readonly systemId?: bigint | undefined
}

const BACKOFF = { minMs: 100, maxMs: 5_000 }

/** Throws BAD_ARGUMENT: nothing else is ever asked of a sink. */
export function checkName(name: string): void {
  // The smallest segments have the most names.
  if (parseSegmentFileName(name, MIN_SEGMENT_BYTES) === undefined && parseHistoryFileName(name) === undefined)
    throw new BeyondError('BAD_ARGUMENT', `${JSON.stringify(name)} is not the name of a segment or a history.`)
}

/**
 * Asks once. What is taken lies at a path that begins with `beside`; nothing else is left there. `first`: which sink to
 * begin with; a whole segment ends the round, everything else needs all of them.
 */
export async function fetchOnce({ sinks, needed, systemId }: FetchSource, name: string, beside: string, signal: AbortSignal, first = 0): Promise<Verdict> {
  const answers: SinkAnswer[] = []
  let taken: string | undefined
  try {
    for (let i = 0; i < sinks.length; i++) {
      const answer = await sinks[(first + i) % sinks.length].fetch(name, `${beside}${i}`, { systemId, signal })
      answers.push(answer)
      if (answer.kind === 'closed') break
    }
    const verdict = judge(name, answers, needed)
    if (verdict.kind === 'take') taken = verdict.path
    return verdict
  } finally {
    for (const answer of answers) if ('path' in answer && answer.path !== taken) await rm(answer.path, { force: true })
  }
}

/** Asks until there is a file or a proof of the end. Throws TIMEOUT at the deadline, with the last reason. */
export async function fetchUntil(source: FetchSource, name: string, beside: string, { deadlineMs, signal }: { deadlineMs: number; signal: AbortSignal }): Promise<Exclude<Verdict, { kind: 'again' }>> {
  checkName(name)
  const late = AbortSignal.timeout(deadlineMs)
  const over = AbortSignal.any([signal, late])
  let reason = 'no sink has answered'
  try {
    for (let attempt = 1; ; attempt++) {
      // Begins with another one each time: the first may be the one that hangs.
      const verdict = await fetchOnce(source, name, beside, over, attempt - 1)
      if (verdict.kind !== 'again') return verdict
      reason = verdict.reason
      await sleep(backoffMs(attempt, Math.random(), BACKOFF), undefined, { signal: over })
    }
  } catch (error) {
    signal.throwIfAborted()
    if (!late.aborted) throw error
    throw new BeyondError('TIMEOUT', `${name} could not be fetched within ${deadlineMs / 1000} s: ${reason}.`, { cause: error, facts: { name } })
  }
}

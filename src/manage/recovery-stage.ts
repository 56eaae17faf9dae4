/**
 * What a recovery needs of the sinks, fetched whole and checked before Postgres starts, so that nothing that happens on the network can
 * look like the end of WAL. Postgres then copies from the folder.
 *
 * Exit codes of the command decide about data: 1 means "not there", which ends recovery; above 125 stops Postgres.
 * Source: https://www.postgresql.org/docs/18/continuous-archiving.html
 */
import { createHash } from 'node:crypto'
import { chownSync, mkdirSync, rmSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { BeyondError, fromSystem } from '../errors.ts'
import { backoffMs } from '../backoff.ts'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Layout } from './layout.ts'
import type { Fetch } from './recovery-plan.ts'
import type { Gathered } from './sink-session.ts'

export const stageDirectory = (layout: Layout): string => join(layout.root, 'recovery')

/** `%f` and `%p` are Postgres's; a `%` of ours is doubled. Without its folder nothing is known, so that is no end of WAL either. */
export function restoreCommand(layout: Layout): string {
  const quoted = `'${stageDirectory(layout).replaceAll('%', '%%').replaceAll("'", String.raw`'\''`)}'`
  return `test -d ${quoted} || exit 200; test -e ${quoted}/%f || exit 1; cp ${quoted}/%f "%p" || exit 201`
}

export function clearStage(layout: Layout): void {
  rmSync(stageDirectory(layout), { recursive: true, force: true })
}

export type StageOptions = {
  readonly layout: Layout
  readonly segmentBytes: number
  readonly fetch: readonly Fetch[]
  readonly sealed: readonly Gathered[]
  readonly histories: ReadonlyMap<string, Buffer>
  readonly logger: Logger
  readonly signal: AbortSignal
}

const ATTEMPTS = 5
const RETRY = { minMs: 100, maxMs: 2_000 }
const PARALLEL = 4
const PROGRESS_MS = 5_000

/** Begins anew each time: what a boot before this one had fetched was sealed for another claim. */
export async function stage({ layout, segmentBytes, fetch, sealed, histories, logger, signal }: StageOptions): Promise<void> {
  clearStage(layout)
  const directory = stageDirectory(layout)
  mkdirSync(directory, { mode: 0o700 })
  const { accountOwner: owner } = layout
  if (owner) chownSync(directory, owner.uid, owner.gid)
  const keep = async (name: string, content: Buffer): Promise<void> => {
    try {
      await writeFile(join(directory, name), content, { mode: 0o600, flag: 'wx' })
      if (owner) chownSync(join(directory, name), owner.uid, owner.gid)
    } catch (error) {
      throw fromSystem(error, `fetching WAL into ${directory}`)
    }
  }
  for (const [name, content] of histories) await keep(name, content)
  const waiting = [...fetch]
  const startedAt = performance.now()
  let done = 0
  let toldAt = startedAt
  const worker = async (): Promise<void> => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      await keep(next.name, await fetchOne(next, sealed, segmentBytes, logger, signal))
      done++
      if (performance.now() - toldAt < PROGRESS_MS) continue
      toldAt = performance.now()
      logger.info({ segments: done, of: fetch.length, seconds: Math.round((toldAt - startedAt) / 1000) }, 'fetching WAL from the sinks')
    }
  }
  await Promise.all(Array.from({ length: PARALLEL }, worker))
}

/** From any that has it; a fault of one is tried at the next. */
async function fetchOne({ name, from }: Fetch, sealed: readonly Gathered[], segmentBytes: number, logger: Logger, signal: AbortSignal): Promise<Buffer> {
  const sinks = sealed.filter(({ member }) => from.some(({ sinkId }) => sinkId === member.sinkId))
  for (let attempt = 1; ; attempt++) {
    const sink = sinks[(attempt - 1) % sinks.length]
    try {
      const content = await sink.client.segment(name, segmentBytes, signal)
      const expected = sink.listed.find((listed) => listed.name === name)?.sha256
      if (content.length !== segmentBytes) throw new BeyondError('WAL_CORRUPT', `The sink ${sink.member.name} sent ${content.length} bytes as segment ${name}.`)
      if (expected === undefined || createHash('sha256').update(content).digest('hex') === expected) return content
      throw new BeyondError('WAL_CORRUPT', `The sink ${sink.member.name} sent a damaged segment ${name}.`)
    } catch (error) {
      signal.throwIfAborted()
      if (attempt >= Math.max(ATTEMPTS, sinks.length)) throw error
      logger.warn({ segment: name, sink: sink.member.name, err: { message: (error as Error).message } }, 'trying again to fetch')
      await sleep(backoffMs(attempt, Math.random(), RETRY), undefined, { signal })
    }
  }
}

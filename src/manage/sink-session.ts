/** The sinks of a box, all at once: who answers, sealing them, attaching them, what they keep. Each by itself, so that a missing one holds up nobody. */
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { BeyondError } from '../errors.ts'
import { type HistoryEntry, parseHistory, type Timeline } from '../wal/timeline.ts'
import type { Claim, SealedSink } from './recovery-plan.ts'
import { SinkClient, type ListedHistory, type ListedSegment, type SinkLook, type SinkTls } from './sink-client.ts'
import type { Member } from './sink-quorum.ts'

export type Answering = { readonly client: SinkClient; readonly member: Member; readonly look: SinkLook }

export type Gathered = SealedSink & { readonly client: SinkClient; readonly listed: readonly ListedSegment[] }

/** How long the start of a box waits for sinks that don't answer. */
const PATIENCE_MS = 10_000
const LOOK_AGAIN_MS = 500

export class SinkSession implements Disposable {
  readonly clients: readonly SinkClient[]
  readonly #logger: Logger

  constructor(urls: readonly string[], tls: SinkTls, logger: Logger) {
    this.clients = urls.map((url) => new SinkClient(url, tls))
    this.#logger = logger
  }

  [Symbol.dispose](): void {
    for (const client of this.clients) client[Symbol.dispose]()
  }

  /** Waits until all answer, and after a while contents itself with `enough` of them. Answers at once when nobody more can come. */
  async answering(enough: number, signal: AbortSignal): Promise<readonly Answering[]> {
    const deadline = performance.now() + PATIENCE_MS
    const soon = performance.now() + 2 * LOOK_AGAIN_MS
    for (let told = ''; ; await sleep(LOOK_AGAIN_MS, undefined, { signal })) {
      const looks = await Promise.allSettled(this.clients.map((client) => client.look(signal)))
      signal.throwIfAborted()
      const found = looks.flatMap((look, at) => (look.status === 'fulfilled' ? [answering(this.clients[at], look.value)] : []))
      const isEnough = found.length === this.clients.length || (found.length >= enough && performance.now() > soon)
      if (isEnough || performance.now() > deadline) return found
      const why = looks.flatMap((look) => (look.status === 'rejected' ? [(look.reason as Error).message] : [])).join(' ')
      if (why !== told) this.#logger.warn({ answering: found.length, of: this.clients.length }, `waiting for sinks: ${why}`)
      told = why
    }
  }

  /** Those that were sealed, with all that they keep. One that belongs to a later claim ends it: another box is the primary. */
  async seal(sinks: readonly Answering[], claim: Claim, signal: AbortSignal): Promise<readonly Gathered[]> {
    const results = await Promise.allSettled(sinks.map((sink) => this.#sealOne(sink, claim, signal)))
    signal.throwIfAborted()
    for (const result of results) {
      if (result.status === 'fulfilled') continue
      const error = result.reason as Error
      if (error instanceof BeyondError && (error.code === 'STALE_GENERATION' || error.code === 'GENERATION_TAKEN')) throw error
      this.#logger.error({ err: { message: error.message } }, 'a sink could not be sealed')
    }
    return results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
  }

  async #sealOne({ client, member, look }: Answering, claim: Claim, signal: AbortSignal): Promise<Gathered> {
    const end = await client.seal(claim, signal)
    const listed = await client.segments(signal)
    const segments = listed.map(({ name, end: until }) => ({ name, end: until }))
    return { client, member, end, listed, segments, systemId: look.systemId, attached: attachedOf(look) }
  }
}

const answering = (client: SinkClient, look: SinkLook): Answering => ({ client, look, member: { url: client.url, name: look.name, sinkId: look.sinkId } })

/** The seal of the generation that attached stays until the next one. */
export function attachedOf({ generation, seal }: SinkLook): Claim | undefined {
  return seal && seal.generation === generation ? seal : undefined
}

export type Histories = { readonly parsed: ReadonlyMap<Timeline, readonly HistoryEntry[]>; readonly files: ReadonlyMap<string, Buffer> }

/** Every history file that any of them has. Two that differ under one name are two histories. */
export async function gatherHistories(sinks: readonly Pick<Answering, 'client' | 'member'>[], signal: AbortSignal): Promise<Histories> {
  const known = new Map<string, { readonly listed: ListedHistory; readonly sink: Pick<Answering, 'client' | 'member'> }>()
  for (const sink of sinks) {
    for (const listed of await sink.client.histories(signal)) {
      const before = known.get(listed.name)
      if (before && before.listed.sha256 !== listed.sha256) {
        throw new BeyondError('HISTORY_DIVERGED', `The sinks ${before.sink.member.name} and ${sink.member.name} have different files ${listed.name}: take out the one that is wrong.`)
      }
      known.set(listed.name, before ?? { listed, sink })
    }
  }
  const files = new Map<string, Buffer>()
  const parsed = new Map<Timeline, readonly HistoryEntry[]>()
  for (const [name, { listed, sink }] of known) {
    const content = await sink.client.history(name, signal)
    const history = parseHistory(content.toString('utf8'), listed.timeline)
    if (!history || createHash('sha256').update(content).digest('hex') !== listed.sha256) {
      throw new BeyondError('WAL_CORRUPT', `The sink ${sink.member.name} sent a damaged ${name}.`)
    }
    files.set(name, content)
    parsed.set(listed.timeline, history)
  }
  return { parsed, files }
}

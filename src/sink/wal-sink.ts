/**
 * The sink: owns a folder with the WAL of one cluster, the receiver that writes it, and the answers to those who ask for it.
 *
 *     DIR/lock  sink.json      the state that survives
 *     DIR/wal/                 the receiver's: the newest segments, the last one partial
 *     DIR/aside/               the partial one as it was before the receiver began it anew
 *     DIR/segments/            put away: immutable, compressed
 *     DIR/histories/  DIR/quarantine/
 *
 * Two loops: one keeps the receiver running as long as the generation allows, the other follows behind it. Whatever
 * changes files or state runs one at a time (`#alone`).
 */
import { copyFile, open, readdir, readFile, realpath, rename, rm, stat, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { backoffMs } from '../backoff.ts'
import { lockFile } from '../directory-lock.ts'
import { makeDirectoryDurably, syncDirectory } from '../durable-file.ts'
import { BeyondError, codes, fromSystem } from '../errors.ts'
import type { Logger } from '../logger.ts'
import { formatLsn, toLsn, type Lsn } from '../wal/lsn.ts'
import { Primary } from '../wal/primary.ts'
import { killStrayReceivers, startReceiver } from '../wal/receive-wal.ts'
import { parseSegmentFileName, segmentFileName, segmentOf, segmentStart } from '../wal/segment-name.ts'
import { historyFileName, leftAt, parseHistory, parseHistoryFileName, type Timeline } from '../wal/timeline.ts'
import { WalScanner } from '../wal/wal-scanner.ts'
import { advanceGeneration, type Claim } from './generation.ts'
import { HistoryStore } from './history-store.ts'
import { backfillHistories, checkPrimary, holdsConfirmed, prepareFolder } from './receiver-check.ts'
import { isLive, removable, retentionFloor } from './retention.ts'
import { checkStored, readWithZeros, validEndOf } from './segment-scan.ts'
import { openStored, SegmentStore } from './segment-store.ts'
import { newState, readState, writeState, type SinkState } from './sink-state.ts'
import type {
  AttachRequest,
  HistoryInfo,
  OpenObject,
  Pin,
  PrimaryConninfo,
  SealRequest,
  SealStatus,
  SegmentInfo,
  Sink,
  SinkActivity,
  SinkProgress,
  SinkStatus,
  VerifyReport,
  WalPosition,
} from './sink.ts'
import { WalFollower } from './wal-follower.ts'

export type WalSinkOptions = {
  readonly directory: string
  /** `application_name` at the primary and name of the slot: [a-z0-9_]. */
  readonly name: string
  readonly bindir: string
  readonly version: string
  readonly logger: Logger
  /** Added to what an attach says, and stronger than it: certificates that are files here. */
  readonly ownConninfo: PrimaryConninfo
  /** The receiver rests below this; three segments when that is more. */
  readonly minFreeBytes: number
  /** Where tests say how full the disk is. */
  readonly freeBytes?: () => Promise<number>
  /** The primary has gone on and nothing has come for so long: the connection is dead, whatever TCP thinks. Milliseconds. */
  readonly silenceMs?: number
}

const FOLLOW_MS = 100
const PERSIST_MS = 1_000
const COMPARE_MS = 500
const SPACE_MS = 1_000
const SILENCE_MS = 15_000
const RETRY = { minMs: 50, maxMs: 5_000 }
/** A receiver that ran as long was all right. */
const HEALTHY_MS = 5_000
/** Segments that fit into the space below which the receiver does not start. */
const SPARE_SEGMENTS = 3

type Problem = NonNullable<SinkStatus['problem']>

export class WalSink implements Sink, AsyncDisposable {
  readonly #options: WalSinkOptions
  readonly #logger: Logger
  readonly #lock: Disposable
  readonly #walDirectory: string
  readonly #store: SegmentStore
  readonly #histories: HistoryStore
  readonly #listeners = new Set<(progress: SinkProgress) => void>()
  #state: SinkState
  #follower: WalFollower | undefined
  #activity: SinkActivity = 'idle'
  #problem: Problem | undefined
  /** The receiver must not run until a person has looked. */
  #isHalted = false
  #isFull = false
  #freeBytes = 0
  #spaceAt = 0
  #persistedAt = 0
  #comparedAt = 0
  #watchedAt = 0
  #movedAt = performance.now()
  #restarts = 0
  #quarantined = 0
  #session: { readonly stop: AbortController; readonly over: Promise<void> } | undefined
  #changed = Promise.withResolvers<void>()
  #queue: Promise<unknown> = Promise.resolve()
  /** Closed and whole, to be put away. */
  readonly #toPutAway = new Set<string>()
  /** What was set aside: its bytes up to `upTo` must come again. */
  #aside: { readonly name: string; readonly upTo: Lsn } | undefined
  #lastProgress = ''

  private constructor(options: WalSinkOptions, walDirectory: string, lock: Disposable, state: SinkState, store: SegmentStore, histories: HistoryStore) {
    this.#options = options
    this.#logger = options.logger
    this.#walDirectory = walDirectory
    this.#lock = lock
    this.#state = state
    this.#store = store
    this.#histories = histories
  }

  /**
   * Opens the folder, or begins one, and looks whether all that was confirmed is there. Throws LOCKED, DATA_LOST for a
   * damaged state. Nothing is received before `run`.
   */
  static async open(options: WalSinkOptions): Promise<WalSink> {
    const { directory, name, logger } = options
    if (!/^[a-z0-9_]{1,63}$/.test(name)) throw new BeyondError('BAD_ARGUMENT', `${name} can't be the name of a sink: use a-z, 0-9 and _, at most 63 of them.`)
    await makeDirectoryDurably(join(directory, 'wal'))
    const lock = lockFile(join(directory, 'lock'), `Another sink runs on ${directory}: stop it first, or choose another folder.`)
    try {
      const walDirectory = await realpath(join(directory, 'wal'))
      const strays = await killStrayReceivers(walDirectory)
      if (strays > 0) logger.warn({ strays }, 'ended receivers that had outlived their sink')
      let state = await readState(directory)
      if (state && state.name !== name)
        throw new BeyondError('BAD_ARGUMENT', `The sink in ${directory} is called ${state.name}, not ${name}.`)
      const store = await SegmentStore.open(join(directory, 'segments'))
      const histories = await HistoryStore.open(join(directory, 'histories'))
      if (!state) {
        if (store.size > 0 || (await readdir(walDirectory)).some((file) => /^[0-9A-F]{24}/.test(file)))
          throw new BeyondError('DATA_LOST', `${directory} holds WAL, and the state of its sink is gone: put the folder aside and begin with an empty one.`)
        state = newState(name)
        await writeState(directory, state)
      }
      const sink = new WalSink(options, walDirectory, lock, state, store, histories)
      await sink.#recover()
      return sink
    } catch (error) {
      lock[Symbol.dispose]()
      throw error
    }
  }

  /** After a start: is everything there that was confirmed? Then on to the end of what is there. */
  async #recover(): Promise<void> {
    this.#activity = this.#restingActivity()
    this.#freeBytes = await this.#measureFree()
    for (const file of await readdir(join(this.#options.directory, 'quarantine')).catch(() => [])) if (file !== '') this.#quarantined++
    const { flushed, systemId, segmentBytes } = this.#state
    if (!flushed || systemId === undefined || segmentBytes === undefined) return
    try {
      await this.#checkHeld(flushed, systemId, segmentBytes)
      const aside = (await readdir(join(this.#options.directory, 'aside')).catch(() => [])).find((file) => parseSegmentFileName(file, segmentBytes))
      await this.#rememberAside(aside)
      for (const file of await readdir(this.#walDirectory)) {
        const segment = parseSegmentFileName(file, segmentBytes)
        if (segment && segmentStart(segment.number + 1n, segmentBytes) <= flushed.lsn && !this.#store.get(file)) this.#toPutAway.add(file)
      }
      await this.#follow()
      const { generation, seal } = this.#state
      if (generation.at === 'sealed' && seal && seal.position === undefined) await this.#finalise()
    } catch (error) {
      this.#halt(error)
    }
  }

  /** Throws DATA_LOST unless all is there from the start of coverage to `flushed`. */
  async #checkHeld(flushed: WalPosition, systemId: bigint, segmentBytes: number): Promise<void> {
    const lost = (what: string) =>
      new BeyondError('DATA_LOST', `This sink confirmed ${formatLsn(flushed.lsn)}, and ${what}: its disk was put back or damaged. Put the folder aside and begin with an empty one.`)
    const { number, name, offset } = this.#segmentBefore(flushed, segmentBytes)
    const start = segmentStart(number, segmentBytes)
    if (offset > 0 && !this.#store.get(name)) {
      const options = { systemId, segmentBytes, timeline: flushed.timeline, start }
      const ends = await Promise.all(
        [name, `${name}.partial`].map((file) => validEndOf(join(this.#walDirectory, file), options).catch(() => undefined)),
      )
      if (!ends.some((end) => end !== undefined && end >= flushed.lsn)) throw lost(`has whole WAL up to ${formatLsn(ends[0] ?? ends[1] ?? start)} only`)
    }
    const held = new Set(this.#store.list().map((stored) => segmentOf(stored.start, segmentBytes)))
    for (const file of await readdir(this.#walDirectory)) {
      const segment = parseSegmentFileName(file.slice(0, 24), segmentBytes)
      if (segment) held.add(segment.number)
    }
    const from = segmentOf(this.#state.coverageStart ?? start, segmentBytes)
    for (let wanted = from; wanted < number; wanted++) if (!held.has(wanted)) throw lost(`the segment at ${formatLsn(segmentStart(wanted, segmentBytes))} is gone`)
  }

  /** The segment that holds the byte before a position, and how much of it lies before. */
  #segmentBefore({ timeline, lsn }: WalPosition, segmentBytes: number): { readonly number: bigint; readonly name: string; readonly offset: number } {
    const number = lsn === 0n ? 0n : segmentOf((lsn - 1n) as Lsn, segmentBytes)
    return { number, name: segmentFileName({ timeline, number }, segmentBytes), offset: Number(lsn - segmentStart(number, segmentBytes)) }
  }

  /** Receives and follows until the signal. Errors of the primary or the disk are in `status`, and retried. */
  async run(signal: AbortSignal): Promise<void> {
    const wake = () => this.#wake()
    signal.addEventListener('abort', wake)
    try {
      await Promise.all([this.#receiveLoop(signal), this.#followLoop(signal)])
    } finally {
      signal.removeEventListener('abort', wake)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stopReceiver()
    await this.#alone(() => this.#persist({})).catch(() => {})
    this.#lock[Symbol.dispose]()
  }

  // The receiver

  #restingActivity(): SinkActivity {
    if (this.#isHalted) return 'halted'
    const { at } = this.#state.generation
    if (at === 'sealed') return 'sealed'
    if (at === 'new') return 'idle'
    return this.#isFull ? 'disk-full' : 'connecting'
  }

  #mayReceive(): boolean {
    return this.#restingActivity() === 'connecting'
  }

  async #receiveLoop(signal: AbortSignal): Promise<void> {
    let attempt = 0
    while (!signal.aborted) {
      if (!this.#mayReceive()) {
        this.#show(this.#restingActivity())
        await this.#changed.promise
        continue
      }
      const stop = new AbortController()
      const session = AbortSignal.any([signal, stop.signal])
      const began = performance.now()
      const over = this.#receive(session)
      this.#session = { stop, over: over.catch(() => {}) }
      let failure: unknown
      try {
        await over
      } catch (error) {
        failure = error
      }
      this.#session = undefined
      if (session.aborted) {
        attempt = 0
        continue
      }
      this.#restarts++
      attempt = performance.now() - began > HEALTHY_MS ? 1 : attempt + 1
      const error = failure instanceof BeyondError ? failure : fromSystem(failure, 'receiving WAL')
      if (error.code === 'DATA_LOST' || error.code === 'WAL_CORRUPT') this.#halt(error)
      else {
        // What no retry mends may still be mended by a person at the primary: ask again, seldom.
        const ms = codes[error.code].retry ? backoffMs(attempt, Math.random(), RETRY) : RETRY.maxMs
        this.#logger.warn({ code: error.code, attempt, retryInMs: Math.round(ms) }, error.message)
        this.#problem = { code: error.code, message: error.message }
        this.#show('connecting')
        await Promise.race([sleep(ms, undefined, { signal: session }).catch(() => {}), this.#changed.promise])
      }
    }
  }

  /** One life of the receiver, with all that is looked at before. Throws unless it was told to stop. */
  async #receive(session: AbortSignal): Promise<void> {
    const { name, bindir, directory, ownConninfo } = this.#options
    const { generation } = this.#state
    if (generation.at !== 'attached') return
    this.#show('connecting')
    const conninfo: Record<string, string> = { ...this.#state.conninfo, ...ownConninfo }
    // A seal does not wait for a primary that does not answer: looking at it changes nothing that matters.
    const segmentBytes = await Promise.race([this.#lookAtPrimary(conninfo, generation.claim), whenAborted(session)])
    if (segmentBytes === undefined || session.aborted) return
    await this.#rememberAside(await prepareFolder(this.#walDirectory, join(directory, 'aside'), segmentBytes))
    if (session.aborted) return
    await using receiver = startReceiver({
      bindir,
      directory: this.#walDirectory,
      slot: name,
      conninfo: { ...conninfo, application_name: name },
      onLine: (line) => {
        this.#logger.debug({ receiver: receiver.pid }, line)
        if (line.includes('starting log streaming at') && !session.aborted) {
          this.#problem = undefined
          this.#show('streaming')
        }
      },
    })
    this.#movedAt = this.#watchedAt = performance.now()
    const stop = () => void receiver.stop()
    session.addEventListener('abort', stop, { once: true })
    if (session.aborted) stop()
    const exit = await receiver.exited
    session.removeEventListener('abort', stop)
    if (session.aborted) return
    throw new BeyondError('CHILD_FAILED', `The receiver ended: ${exit.lastLine || `exit ${exit.code ?? exit.signal}`}`, { facts: { exit: exit.code ?? undefined } })
  }

  /** Answers the segment size. Throws unless the primary is the one to follow. */
  async #lookAtPrimary(conninfo: Readonly<Record<string, string>>, claim: Claim): Promise<number> {
    const { name } = this.#options
    await using primary = await Primary.connect(conninfo, name)
    const identity = await primary.identify()
    const { systemId, streamed } = this.#state
    if (systemId !== undefined && identity.systemId !== systemId) checkPrimary(identity, undefined, this.#state)
    await backfillHistories(primary, identity.timeline, (timeline) => this.#histories.has(timeline), (timeline, content) =>
      this.#histories.put(timeline as Timeline, content),
    )
    // The copy may hold more than what was remembered last.
    await this.#alone(() => this.#follow())
    checkPrimary(identity, this.#histories.get(identity.timeline), this.#state)
    if (systemId === undefined) await this.#alone(() => this.#persist({ systemId: identity.systemId, segmentBytes: identity.segmentBytes }))
    const slot = await primary.slot(name)
    if (!slot) await primary.createSlot(name)
    const { flushed } = this.#state
    if (slot?.restart !== undefined && flushed && streamed === claim.generation) {
      const held = await holdsConfirmed(this.#walDirectory, identity.systemId, identity.segmentBytes, flushed, slot.restart)
      if (!held && !this.#store.get(segmentFileName({ timeline: flushed.timeline, number: segmentOf((slot.restart - 1n) as Lsn, identity.segmentBytes) }, identity.segmentBytes)))
        throw new BeyondError(
          'DATA_LOST',
          `This sink confirmed ${formatLsn(slot.restart)} to the primary and has WAL up to ${formatLsn(flushed.lsn)}: its disk was put back. Put the folder aside and begin with an empty one.`,
        )
    }
    return identity.segmentBytes
  }

  /** When it settles there is no receiver, and none starts while the state forbids it. */
  async #stopReceiver(): Promise<void> {
    const session = this.#session
    session?.stop.abort()
    await session?.over
  }

  #wake(): void {
    this.#changed.resolve()
    this.#changed = Promise.withResolvers<void>()
  }

  #halt(error: unknown): void {
    const known = error instanceof BeyondError ? error : fromSystem(error, 'keeping WAL')
    // A disk that is full is not the end of it.
    if (known.code === 'DISK_FULL') return this.#full()
    this.#isHalted = true
    this.#problem = { code: known.code, message: known.message }
    this.#logger.error({ code: known.code, err: error }, known.message)
    void this.#stopReceiver()
    this.#show('halted')
    this.#wake()
  }

  #full(): void {
    if (this.#isFull) return
    this.#isFull = true
    this.#problem = { code: 'DISK_FULL', message: `The disk of this sink is nearly full (${this.#freeBytes} bytes are free): it takes no WAL until there is room.` }
    this.#logger.error({ code: 'DISK_FULL', freeBytes: this.#freeBytes }, this.#problem.message)
    void this.#stopReceiver()
    this.#show(this.#restingActivity())
  }

  // Following

  /** Runs one piece of work at a time. */
  #alone<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work)
    this.#queue = result.catch(() => {})
    return result
  }

  async #followLoop(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await this.#alone(async () => {
          await this.#follow()
          await this.#putAway()
          await this.#retain()
        })
        await this.#lookAtSpace()
        await this.#watch()
      } catch (error) {
        this.#halt(error)
      }
      this.#tell()
      await sleep(FOLLOW_MS, undefined, { signal }).catch(() => {})
    }
  }

  async #beginFollowing(): Promise<void> {
    const { systemId, segmentBytes, flushed } = this.#state
    if (systemId === undefined || segmentBytes === undefined) return
    const options = { directory: this.#walDirectory, systemId, segmentBytes }
    if (flushed) {
      this.#follower = new WalFollower({ ...options, timeline: flushed.timeline, start: flushed.lsn, lastRecord: flushed.lastRecord })
      return
    }
    const first = (await readdir(this.#walDirectory)).flatMap((file) => parseSegmentFileName(file.slice(0, 24), segmentBytes) ?? []).sort((a, b) => Number(a.number - b.number))[0]
    if (first) this.#follower = new WalFollower({ ...options, timeline: first.timeline, start: segmentStart(first.number, segmentBytes), lastRecord: undefined })
  }

  async #follow(): Promise<void> {
    if (this.#isHalted && this.#state.generation.at !== 'sealed') return
    if (!this.#follower) await this.#beginFollowing()
    const follower = this.#follower
    const { segmentBytes } = this.#state
    if (!follower || segmentBytes === undefined) return
    const { closed, corrupt } = await follower.advance()
    if (corrupt) {
      await this.#quarantineFile(corrupt.name)
      throw new BeyondError('WAL_CORRUPT', `The segment ${corrupt.name} is wrong at ${formatLsn(corrupt.at)} (${corrupt.fault}): it was put into quarantine.`)
    }
    const { position } = follower
    for (const name of closed) this.#toPutAway.add(name)
    if (position.lsn > (this.#state.flushed?.lsn ?? 0n) && position.lastRecord !== undefined) {
      await this.#reached(position, segmentBytes)
    } else {
      await this.#compareAside(position)
      await this.#lookForSwitch(follower, segmentBytes)
    }
  }

  /** Whole WAL up to `position` is in the files: makes sure that it is on disk, then says so. */
  async #reached(position: WalPosition, segmentBytes: number): Promise<void> {
    await this.#compareAside(position)
    const { name } = this.#segmentBefore(position, segmentBytes)
    for (const path of [name, `${name}.partial`]) {
      const file = await open(join(this.#walDirectory, path), 'r').catch(() => undefined)
      if (!file) continue
      await using handle = file
      await handle.datasync()
    }
    const { flushed, coverageStart, generation } = this.#state
    const isNewSegment = !flushed || segmentOf(flushed.lsn, segmentBytes) !== segmentOf(position.lsn, segmentBytes)
    const streamed = generation.at === 'attached' ? generation.claim.generation : this.#state.streamed
    const start = coverageStart ?? (await this.#firstHeld(segmentBytes))
    const change = { flushed: position, streamed, coverageStart: start }
    if (isNewSegment || streamed !== this.#state.streamed || performance.now() - this.#persistedAt > PERSIST_MS) await this.#persist(change)
    else this.#state = { ...this.#state, ...change }
    this.#movedAt = performance.now()
  }

  async #firstHeld(segmentBytes: number): Promise<Lsn | undefined> {
    const numbers = (await readdir(this.#walDirectory)).flatMap((file) => parseSegmentFileName(file.slice(0, 24), segmentBytes)?.number ?? [])
    return numbers.length === 0 ? undefined : segmentStart(numbers.reduce((low, number) => (number < low ? number : low)), segmentBytes)
  }

  /** What was set aside counts as far as it is whole, which may be less than what was confirmed since. */
  async #rememberAside(name: string | undefined): Promise<void> {
    const { systemId, segmentBytes, flushed } = this.#state
    this.#aside = undefined
    const segment = name === undefined || segmentBytes === undefined ? undefined : parseSegmentFileName(name, segmentBytes)
    if (name === undefined || !segment || !flushed || systemId === undefined || segmentBytes === undefined) return
    const options = { systemId, segmentBytes, timeline: segment.timeline, start: segmentStart(segment.number, segmentBytes) }
    const end = await validEndOf(join(this.#options.directory, 'aside', name), options)
    this.#aside = { name, upTo: end < flushed.lsn ? end : flushed.lsn }
  }

  /**
   * The receiver writes over the segment from its first byte, without emptying it: as long as the primary is the same, no
   * byte of what was confirmed changes at any moment.
   */
  async #compareAside(position: WalPosition): Promise<void> {
    const aside = this.#aside
    const { segmentBytes } = this.#state
    if (!aside || segmentBytes === undefined) return
    const isOvertaken = position.lsn > aside.upTo
    if (!isOvertaken && performance.now() - this.#comparedAt < COMPARE_MS) return
    this.#comparedAt = performance.now()
    if (!(await this.#isLikeAside(aside, segmentBytes)))
      throw new BeyondError(
        'HISTORY_DIVERGED',
        `The primary sent other bytes than before for ${aside.name}, below ${formatLsn(aside.upTo)}: what was confirmed is kept in ${join(this.#options.directory, 'aside')}.`,
      )
    if (!isOvertaken) return
    this.#aside = undefined
    await rm(join(this.#options.directory, 'aside', aside.name), { force: true })
    await syncDirectory(join(this.#options.directory, 'aside'))
  }

  async #isLikeAside({ name, upTo }: { readonly name: string; readonly upTo: Lsn }, segmentBytes: number): Promise<boolean> {
    const segment = parseSegmentFileName(name, segmentBytes)
    if (!segment) return true
    const length = Math.min(segmentBytes, Number(upTo - segmentStart(segment.number, segmentBytes)))
    if (length <= 0) return true
    const read = async (path: string) => {
      const handle = await open(path, 'r').catch(() => undefined)
      if (!handle) return undefined
      await using file = handle
      const bytes = Buffer.allocUnsafe(length)
      const { bytesRead } = await file.read(bytes, 0, length, 0)
      return bytes.subarray(0, bytesRead)
    }
    const before = await read(join(this.#options.directory, 'aside', name))
    const now = (await read(join(this.#walDirectory, name))) ?? (await read(join(this.#walDirectory, `${name}.partial`)))
    // Put away already: then it was whole.
    return !before || !now || before.equals(now)
  }

  /** Has the receiver gone on to another timeline? It leaves the old partial file where it is. */
  async #lookForSwitch(follower: WalFollower, segmentBytes: number): Promise<void> {
    const { position } = follower
    const number = segmentOf(position.lsn, segmentBytes)
    const next = (await readdir(this.#walDirectory))
      .flatMap((file) => parseSegmentFileName(file.slice(0, 24), segmentBytes) ?? [])
      .filter((segment) => segment.timeline > position.timeline && segment.number >= number)
      .sort((a, b) => a.timeline - b.timeline || Number(a.number - b.number))[0]
    if (!next) return
    for (const file of await readdir(this.#walDirectory)) {
      const timeline = parseHistoryFileName(file)
      if (timeline && !this.#histories.has(timeline)) await this.#histories.put(timeline, await readFile(join(this.#walDirectory, file)))
    }
    const history = this.#histories.get(next.timeline)
    const left = history && leftAt(parseHistory(history.toString(), next.timeline) ?? [], next.timeline, position.timeline)
    if (left === undefined || left === 'never' || left < position.lsn)
      throw new BeyondError('HISTORY_DIVERGED', `Timeline ${next.timeline} does not go on at ${formatLsn(position.lsn)} of timeline ${position.timeline}, where this sink is.`)
    // The old timeline's last bytes came before the new timeline's first.
    const { position: last } = follower
    if (segmentOf(left, segmentBytes) !== next.number) return
    await this.#publishLast(last, segmentBytes, this.#state.attached)
    const start = segmentStart(next.number, segmentBytes)
    this.#follower = new WalFollower({
      directory: this.#walDirectory,
      systemId: this.#state.systemId!,
      segmentBytes,
      timeline: next.timeline,
      start,
      lastRecord: undefined,
    })
    const { name } = this.#segmentBefore(last, segmentBytes)
    await rm(join(this.#walDirectory, `${name}.partial`), { force: true })
    await syncDirectory(this.#walDirectory)
    this.#logger.info({ timeline: next.timeline, at: formatLsn(left) }, 'following the new timeline')
  }

  /** Puts closed segments away, and takes them from the receiver's folder, but for the highest. */
  async #putAway(): Promise<void> {
    const { segmentBytes } = this.#state
    if (segmentBytes === undefined || this.#isFull || this.#toPutAway.size === 0) return
    for (const name of this.#toPutAway) {
      const segment = parseSegmentFileName(name, segmentBytes)
      const path = join(this.#walDirectory, name)
      if (segment && !this.#isClosedStored(name) && (await stat(path).catch(() => undefined)))
        await this.#store.put(
          { name, kind: 'closed', generation: 0n, end: segmentStart(segment.number + 1n, segmentBytes), bytes: segmentBytes },
          readWithZeros(path, segmentBytes, segmentBytes),
        )
      this.#toPutAway.delete(name)
    }
    const closed = (await readdir(this.#walDirectory)).filter((file) => parseSegmentFileName(file, segmentBytes)).sort((a, b) => (a.slice(8) < b.slice(8) ? -1 : 1))
    for (const name of closed.slice(0, -1)) if (this.#isClosedStored(name)) await rm(join(this.#walDirectory, name), { force: true })
  }

  #isClosedStored(name: string): boolean {
    return this.#store.get(name)?.kind === 'closed'
  }

  async #retain(): Promise<void> {
    const { pins, segmentBytes, coverageStart } = this.#state
    const now = Date.now()
    if (pins.some((pin) => !isLive(pin, now))) await this.#persist({ pins: pins.filter((pin) => isLive(pin, now)) })
    const floor = retentionFloor(this.#state.pins, now)
    if (floor === undefined || segmentBytes === undefined || coverageStart === undefined) return
    const gone = removable(this.#store.list(), floor)
    if (gone.length === 0) return
    // First it is said that they are no longer covered, then they go.
    const kept = this.#store.list().filter((stored) => !gone.includes(stored))
    const from = kept.reduce<Lsn>((low, { start }) => (start < low ? start : low), segmentStart(segmentOf(floor, segmentBytes), segmentBytes))
    await this.#persist({ coverageStart: from > coverageStart ? from : coverageStart })
    for (const { name } of gone) await this.#store.remove(name)
    this.#logger.info({ removed: gone.length, floor: formatLsn(floor) }, 'removed segments that no pin needs')
  }

  async #measureFree(): Promise<number> {
    if (this.#options.freeBytes) return this.#options.freeBytes()
    const { bavail, bsize } = await statfs(this.#options.directory)
    return bavail * bsize
  }

  /** Stops being a member of the quorum before the disk is full, and becomes one again when there is room. */
  async #lookAtSpace(): Promise<void> {
    if (performance.now() - this.#spaceAt < SPACE_MS) return
    this.#spaceAt = performance.now()
    this.#freeBytes = await this.#measureFree()
    const least = Math.max(this.#options.minFreeBytes, SPARE_SEGMENTS * (this.#state.segmentBytes ?? 0))
    if (this.#freeBytes < least) this.#full()
    // A little more than what it takes to stop, so that it does not come and go.
    else if (this.#isFull && this.#freeBytes >= least * 1.2) {
      this.#isFull = false
      this.#problem = undefined
      this.#logger.info({ freeBytes: this.#freeBytes }, 'there is room again')
      this.#wake()
    }
  }

  /** TCP may take a quarter of an hour to notice a dead primary, and pg_receivewal has no timeout of its own. */
  async #watch(): Promise<void> {
    const now = performance.now()
    const silenceMs = this.#options.silenceMs ?? SILENCE_MS
    if (this.#activity !== 'streaming' || now - this.#movedAt < silenceMs || now - this.#watchedAt < silenceMs / 3) return
    this.#watchedAt = now
    const { conninfo, flushed } = this.#state
    const session = this.#session
    try {
      await using primary = await Primary.connect({ ...conninfo, ...this.#options.ownConninfo }, this.#options.name)
      const { flushed: there } = await primary.identify()
      if (there <= (flushed?.lsn ?? 0n) || performance.now() - this.#movedAt < silenceMs || session !== this.#session) return
    } catch {
      // It says nothing about the stream. The timeouts of its connection will.
      return
    }
    this.#logger.warn({ code: 'TIMEOUT' }, 'the primary has gone on and no WAL came: starting the receiver anew')
    await this.#stopReceiver()
  }

  // Seal and attach

  async seal({ generation, by }: SealRequest): Promise<{ readonly seal: SealStatus; readonly position: WalPosition | undefined }> {
    const verdict = advanceGeneration(this.#state.generation, { kind: 'seal', claim: { generation, by } })
    if (!verdict.ok) throw new BeyondError(verdict.code, verdict.message)
    const at = new Date().toISOString()
    // Durable first: after this no restart lets an older primary in.
    await this.#alone(() => {
      const again = advanceGeneration(this.#state.generation, { kind: 'seal', claim: { generation, by } })
      if (!again.ok) throw new BeyondError(again.code, again.message)
      return again.changed ? this.#persist({ generation: again.state, seal: { generation, by, at, position: undefined } }) : Promise.resolve()
    })
    await this.#stopReceiver()
    await this.#alone(() => (this.#state.seal?.position ? Promise.resolve() : this.#finalise()))
    this.#show(this.#restingActivity())
    const { seal } = this.#state
    if (seal?.generation !== generation || seal.by !== by)
      throw new BeyondError('STALE_GENERATION', `Generation ${seal?.generation} has sealed this sink meanwhile.`)
    this.#logger.info({ generation: String(generation), by, position: seal.position && formatLsn(seal.position.lsn) }, 'sealed')
    return { seal, position: seal.position }
  }

  /** The receiver is gone: where does WAL end? Publishes the last segment, and remembers the position. */
  async #finalise(): Promise<void> {
    const { segmentBytes, flushed, seal } = this.#state
    if (!seal || segmentBytes === undefined) return
    if (this.#aside && !(await this.#isLikeAside(this.#aside, segmentBytes))) {
      // What the last primary wrote over it is not what was confirmed.
      const { name, upTo } = this.#aside
      if (flushed && upTo < flushed.lsn && segmentOf(upTo, segmentBytes) === segmentOf(flushed.lsn, segmentBytes))
        throw new BeyondError('HISTORY_DIVERGED', `The last primary sent other bytes than were confirmed for ${name}, and the copy that was set aside ends early: use another sink.`)
      for (const file of [name, `${name}.partial`]) if (await stat(join(this.#walDirectory, file)).catch(() => undefined)) await this.#quarantineFile(file)
      await copyFile(join(this.#options.directory, 'aside', name), join(this.#walDirectory, `${name}.partial`))
      this.#aside = undefined
      this.#logger.error({ code: 'HISTORY_DIVERGED', name }, 'the last primary had sent other bytes than were confirmed: they were put back')
    }
    this.#follower = undefined
    await this.#follow()
    const position = (this.#follower as WalFollower | undefined)?.position
    if (!position || position.lastRecord === undefined) return
    if (flushed && position.lsn < flushed.lsn) throw new BeyondError('DATA_LOST', `WAL ends at ${formatLsn(position.lsn)} here, below what was confirmed, ${formatLsn(flushed.lsn)}.`)
    await this.#publishLast(position, segmentBytes, seal.generation)
    await this.#cutReceived(position, segmentBytes)
    await this.#persist({ flushed: position, seal: { ...seal, position } })
    // Whatever it was: all that was confirmed is here.
    this.#isHalted = false
    this.#problem = undefined
  }

  /** The last segment of a timeline under its 24 digits: whole size, zeros after the last record, read again and checked. */
  async #publishLast(position: WalPosition, segmentBytes: number, generation: bigint): Promise<void> {
    const { number, name, offset } = this.#segmentBefore(position, segmentBytes)
    if (this.#isClosedStored(name) || offset === 0) return
    let path = join(this.#walDirectory, name)
    if (!(await stat(path).catch(() => undefined))) path += '.partial'
    if (!(await stat(path).catch(() => undefined))) {
      // Sealed before, and nothing came since.
      if (this.#store.get(name)?.end === position.lsn) return
      throw new BeyondError('WAL_CORRUPT', `The last segment ${name} is not there: it is gone, or in quarantine.`, { facts: { name } })
    }
    const stored = await this.#store.put({ name, kind: 'sealed', generation, end: position.lsn, bytes: segmentBytes }, readWithZeros(path, offset, segmentBytes))
    const scanner = new WalScanner({ systemId: this.#state.systemId!, segmentBytes, timeline: position.timeline, start: segmentStart(number, segmentBytes) })
    const fault = await checkStored(stored, scanner)
    if (fault !== undefined) throw new BeyondError('WAL_CORRUPT', `The last segment ${name} can't be published: ${fault}.`)
  }

  /**
   * Leaves in the receiver's folder nothing beyond the position, so that the next primary's WAL goes on right there: what
   * was received of an unfinished record is not confirmed to anybody.
   */
  async #cutReceived(position: WalPosition, segmentBytes: number): Promise<void> {
    const { number, name, offset } = this.#segmentBefore(position, segmentBytes)
    for (const file of await readdir(this.#walDirectory)) {
      const segment = parseSegmentFileName(file.slice(0, 24), segmentBytes)
      if (segment && segment.number > number) await rm(join(this.#walDirectory, file))
    }
    const path = join(this.#walDirectory, name)
    if (offset < segmentBytes) {
      if (await stat(path).catch(() => undefined)) await rename(path, `${path}.partial`)
      const found = await open(`${path}.partial`, 'r+').catch(() => undefined)
      if (found) {
        await using file = found
        await file.truncate(offset)
        await file.truncate(segmentBytes)
        await file.sync()
      }
    }
    await syncDirectory(this.#walDirectory)
  }

  async attach({ generation, by, conninfo }: AttachRequest): Promise<void> {
    const isNew = await this.#alone(async () => {
      const verdict = advanceGeneration(this.#state.generation, { kind: 'attach', claim: { generation, by } })
      if (!verdict.ok) throw new BeyondError(verdict.code, verdict.message)
      if (!verdict.changed && isDeepStrictEqual(conninfo, this.#state.conninfo)) return false
      await this.#persist({ generation: verdict.state, attached: generation, conninfo })
      if (verdict.changed) {
        if (this.#aside) await rm(join(this.#options.directory, 'aside', this.#aside.name), { force: true })
        this.#aside = undefined
      }
      return true
    })
    if (!isNew) return
    await this.#stopReceiver()
    this.#problem = this.#isHalted ? this.#problem : undefined
    this.#logger.info({ generation: String(generation), by, host: conninfo.host }, 'attached')
    this.#show(this.#restingActivity())
    this.#wake()
  }

  // What is held

  async segments(): Promise<readonly SegmentInfo[]> {
    const infos: SegmentInfo[] = this.#store.list().map(({ name, kind, timeline, start, end, bytes, storedBytes, sha256 }) => ({ name, kind, timeline, start, end, bytes, storedBytes, sha256 }))
    const { flushed, segmentBytes } = this.#state
    if (!flushed || segmentBytes === undefined) return infos
    for (const file of await readdir(this.#walDirectory)) {
      const live = this.#live(file.slice(0, 24))
      const name = file.slice(0, 24)
      if (!live || this.#store.get(name) || infos.some((info) => info.name === name)) continue
      infos.push({ name, kind: live.kind, timeline: live.timeline, start: live.start, end: live.end, bytes: segmentBytes, storedBytes: segmentBytes, sha256: undefined })
    }
    return infos.sort((a, b) => a.timeline - b.timeline || (a.start < b.start ? -1 : 1))
  }

  /** What can be served of a file in the receiver's folder. */
  #live(name: string): { readonly timeline: Timeline; readonly start: Lsn; readonly end: Lsn; readonly kind: 'closed' | 'partial' } | undefined {
    const { flushed, segmentBytes } = this.#state
    const segment = segmentBytes === undefined ? undefined : parseSegmentFileName(name, segmentBytes)
    if (!segment || !flushed || segmentBytes === undefined || segment.timeline > flushed.timeline) return undefined
    const start = segmentStart(segment.number, segmentBytes)
    const close = segmentStart(segment.number + 1n, segmentBytes)
    if (segment.timeline < flushed.timeline || flushed.lsn <= start) return undefined
    return { timeline: segment.timeline, start, end: flushed.lsn < close ? flushed.lsn : close, kind: flushed.lsn < close ? 'partial' : 'closed' }
  }

  async openSegment(name: string): Promise<OpenObject> {
    if (!/^[0-9A-F]{24}$/.test(name)) throw new BeyondError('BAD_REQUEST', 'A segment is named by 24 hexadecimal digits, in capitals.')
    for (let attempt = 0; ; attempt++) {
      const live = this.#live(name)
      const stored = this.#store.get(name)
      // While a sealed one goes on, what comes after the seal is in the receiver's folder.
      if (stored && !(stored.kind === 'sealed' && live && live.end > stored.end)) return openStored(stored)
      const opened = live && (await openLive(join(this.#walDirectory, name), live, this.#state.segmentBytes!))
      if (opened) return opened
      // It may have been put away between the two looks.
      if (attempt === 1 || !live) throw new BeyondError('NOT_FOUND', `This sink does not hold the segment ${name}.`, { facts: { name } })
    }
  }

  histories(): Promise<readonly HistoryInfo[]> {
    return Promise.resolve(this.#histories.list())
  }

  openHistory(name: string): Promise<OpenObject> {
    const timeline = parseHistoryFileName(name)
    if (!timeline) return Promise.reject(new BeyondError('BAD_REQUEST', 'A history is named by 8 hexadecimal digits and .history.'))
    const content = this.#histories.get(timeline)
    if (!content) return Promise.reject(new BeyondError('NOT_FOUND', `This sink does not hold ${name}.`, { facts: { name } }))
    const { sha256 } = this.#histories.list().find((info) => info.timeline === timeline)!
    return Promise.resolve({
      bytes: content.length,
      etag: sha256,
      sha256,
      kind: 'history',
      read: async function* (start: number, end: number) {
        yield content.subarray(start, end)
      },
      zstd: undefined,
      [Symbol.asyncDispose]: () => Promise.resolve(),
    })
  }

  async putHistory(name: string, content: Buffer): Promise<void> {
    const timeline = parseHistoryFileName(name)
    if (!timeline) throw new BeyondError('BAD_REQUEST', 'A history is named by 8 hexadecimal digits and .history.')
    await this.#histories.put(timeline, content)
    this.#logger.info({ name: historyFileName(timeline) }, 'keeps a history')
  }

  pins(): readonly Pin[] {
    return this.#state.pins
  }

  setPin(pin: Pin): Promise<void> {
    if (!/^[a-z0-9._-]{1,63}$/.test(pin.name)) return Promise.reject(new BeyondError('BAD_REQUEST', 'A pin is named with a-z, 0-9, dot, _ and -, at most 63 of them.'))
    if (pin.expiresAt !== undefined && Number.isNaN(Date.parse(pin.expiresAt))) return Promise.reject(new BeyondError('BAD_REQUEST', 'A pin expires at an ISO 8601 time.'))
    return this.#alone(() => this.#persist({ pins: [...this.#state.pins.filter(({ name }) => name !== pin.name), pin] }))
  }

  removePin(name: string): Promise<void> {
    return this.#alone(async () => {
      const pins = this.#state.pins.filter((pin) => pin.name !== name)
      if (pins.length === this.#state.pins.length) throw new BeyondError('NOT_FOUND', `There is no pin ${name}.`, { facts: { name } })
      await this.#persist({ pins })
    })
  }

  async verify(signal: AbortSignal): Promise<VerifyReport> {
    const { systemId, segmentBytes } = this.#state
    const faults: { name: string; message: string }[] = []
    const gaps: { start: Lsn; end: Lsn }[] = []
    let bytes = 0
    const all = this.#store.list()
    let scanner: WalScanner | undefined
    let before: (typeof all)[number] | undefined
    for (const stored of all) {
      signal.throwIfAborted()
      if (systemId === undefined || segmentBytes === undefined) break
      const follows = before?.timeline === stored.timeline && before.start + BigInt(before.bytes) === stored.start
      if (before?.timeline === stored.timeline && !follows) gaps.push({ start: toLsn(before.start + BigInt(before.bytes)), end: stored.start })
      if (!follows || !scanner || scanner.fault) scanner = new WalScanner({ systemId, segmentBytes, timeline: stored.timeline, start: stored.start })
      const fault = await checkStored(stored, scanner).catch((error: unknown) => (error as Error).message)
      // Retention may have taken it meanwhile.
      if (fault !== undefined && this.#store.get(stored.name) === stored) {
        faults.push({ name: stored.name, message: fault })
        this.#logger.error({ code: 'WAL_CORRUPT', name: stored.name }, fault)
        await this.#alone(() => this.#store.quarantine(stored, join(this.#options.directory, 'quarantine')))
        this.#quarantined++
      }
      // What follows on something that is wrong is looked at for itself.
      if (fault !== undefined) scanner = undefined
      bytes += stored.bytes
      before = stored
    }
    return { segments: all.length, bytes, faults, gaps }
  }

  async #quarantineFile(name: string): Promise<void> {
    const directory = join(this.#options.directory, 'quarantine')
    await makeDirectoryDurably(directory)
    await rename(join(this.#walDirectory, name), join(directory, `${name}.${Date.now()}`))
    await syncDirectory(directory)
    this.#quarantined++
  }

  status(): SinkStatus {
    const { sinkId, name, systemId, segmentBytes, flushed, coverageStart, pins, attached, seal } = this.#state
    return {
      sinkId,
      name,
      version: this.#options.version,
      activity: this.#activity,
      problem: this.#problem,
      systemId,
      generation: attached,
      seal,
      segmentBytes,
      flushed,
      coverageStart,
      floor: retentionFloor(pins, Date.now()),
      segments: this.#store.size,
      storedBytes: this.#store.storedBytes,
      freeBytes: this.#freeBytes,
      receiverRestarts: this.#restarts,
      quarantined: this.#quarantined,
    }
  }

  onProgress(listener: (progress: SinkProgress) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  #show(activity: SinkActivity): void {
    if (this.#activity === activity) return
    this.#activity = activity
    this.#logger.info({ activity }, `the sink is ${activity}`)
    this.#tell()
  }

  #tell(): void {
    const { activity, problem, generation, flushed, floor } = this.status()
    const text = [activity, problem?.code, generation, flushed?.timeline, flushed?.lsn, floor].join(' ')
    if (text === this.#lastProgress) return
    this.#lastProgress = text
    for (const listener of this.#listeners) listener({ activity, problem, generation, flushed, floor })
  }

  async #persist(change: Partial<SinkState>): Promise<void> {
    const next = { ...this.#state, ...change }
    await writeState(this.#options.directory, next).catch((error: unknown) => {
      throw fromSystem(error, 'writing the state of the sink')
    })
    this.#state = next
    this.#persistedAt = performance.now()
  }
}

const whenAborted = (signal: AbortSignal): Promise<undefined> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve(undefined)
    else signal.addEventListener('abort', () => resolve(undefined), { once: true })
  })

/** A file in the receiver's folder up to `end`; zeros follow. undefined: it is no longer there. */
async function openLive(path: string, live: { readonly start: Lsn; readonly end: Lsn; readonly kind: 'closed' | 'partial' }, bytes: number): Promise<OpenObject | undefined> {
  const handle = (await open(path, 'r').catch(() => undefined)) ?? (await open(`${path}.partial`, 'r').catch(() => undefined))
  if (!handle) return undefined
  const length = Number(live.end - live.start)
  return {
    bytes,
    etag: `${live.kind}-${formatLsn(live.end).replace('/', '-')}`,
    sha256: undefined,
    kind: live.kind,
    read: async function* (start: number, end: number) {
      for (let at = start; at < end; ) {
        const piece = Buffer.alloc(Math.min(256 * 1024, end - at))
        if (at < length) await handle.read(piece, 0, Math.min(piece.length, length - at), at)
        yield piece
        at += piece.length
      }
    },
    zstd: undefined,
    [Symbol.asyncDispose]: () => handle.close(),
  }
}


/**
 * What makes a box with sinks safe to open, in three steps. `sinks`, before Postgres starts: seal a quorum, decide, fetch, and have
 * Postgres recover. `sink check`, when it answers: did it reach what was confirmed? `sink gate`, before clients get in: a quorum takes the
 * WAL of the new generation. A boot that is cut off anywhere is followed by one with a claim of its own, which begins at the first.
 */
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { escapeLiteral as literal } from 'pg'
import { BeyondError } from '../../errors.ts'
import { formatLsn, lsnFromServer, type Lsn } from '../../wal/lsn.ts'
import { leftAt, type Timeline, toTimeline } from '../../wal/timeline.ts'
import { writeFileAtomic } from '../atomic-file.ts'
import { type DatabaseAddress, withDatabase } from '../database-client.ts'
import { type Claim, planRecovery, type RecoveryInput, type SealedEnd } from '../recovery-plan.ts'
import { clearStage, restoreCommand, stage } from '../recovery-stage.ts'
import { readRecoveryState, recoveryStateFile, type RecoveryState, writeRecoveryState } from '../recovery-state.ts'
import { localHistory, localWalEnd, readControlData } from '../recovery-volume.ts'
import { scramVerifier, verifierMatches } from '../scram.ts'
import { ensureSinkPassword, primaryConninfoFor, quorumSettings, SINK_ROLE } from '../sink-primary.ts'
import type { SinkTls } from '../sink-client.ts'
import { duplicates, type Member, sealQuorum, writeQuorum } from '../sink-quorum.ts'
import { type Answering, attachedOf, gatherHistories, SinkSession } from '../sink-session.ts'
import { unlessStopped } from '../unless-stopped.ts'
import { type Boot, given, nothing, type Step, will } from './step.ts'

const NO_SINKS = 'the box has none'
const QUERY_MS = 10_000
const LOOK_AGAIN_MS = 100
const TELL_MS = 5_000
/** How often a sink that was missing is looked for. */
const RETURN_MS = 5_000

export const sinks: Step = {
  name: 'sinks',
  look: (boot) => {
    const { layout, config } = boot
    const state = readRecoveryState(layout)
    const { walSink } = config.settings
    if (walSink.length === 0) {
      if (!state) return nothing(NO_SINKS)
      throw new BeyondError(
        'BAD_ARGUMENT',
        `The commits of this volume are held by ${state.members.map(({ name }) => name).join(', ')}, and BEYOND_PG_WAL_SINK is empty: set it again, or remove ${recoveryStateFile(layout)} to do without sinks for good.`,
      )
    }
    if (config.settings.tier !== 'primary') throw new BeyondError('BAD_ARGUMENT', `BEYOND_PG_WAL_SINK is for a primary: a ${config.settings.tier} acknowledges nothing; remove it.`)
    if (boot.leftovers?.names.includes('postgres')) {
      if (!state) throw new BeyondError('BAD_ARGUMENT', 'Postgres runs already, and without sinks: stop the box in order, and start it again with BEYOND_PG_WAL_SINK.')
      return will('go on with the generation of the Postgres that runs', () => {
        useSinks(boot, state)
        return `Postgres runs on in generation ${state.claim.generation}`
      })
    }
    return will(`seal ${sealQuorum(walSink.length)} of ${walSink.length} sinks, and recover what the volume lacks`, () => sealAndPlan(boot, state))
  },
}

async function sealAndPlan(boot: Boot, before: RecoveryState | undefined): Promise<string> {
  const { layout, config, logger, stop: signal, childEnvironment: environment } = boot
  const { walSink } = config.settings
  using session = new SinkSession(walSink, readSinkTls(boot), logger)
  const isFirst = before === undefined
  const needed = isFirst ? walSink.length : Math.max(sealQuorum(walSink.length), sealQuorum(before.members.length))
  const answering = await session.answering(needed, signal)
  checkAnswering(answering, walSink, isFirst)
  const claim = nextClaim(answering, before)
  const members = before?.members ?? answering.map(({ member }) => member)
  const proven = before?.proven ?? toTimeline(1)!
  const control = await readControlData(layout, given(boot.programs, 'the programs'), environment, signal)
  const history = await localHistory(layout, control.timeline)
  const walEnd = await localWalEnd(join(layout.postgres, 'pg_wal'), control, signal)
  const volume = { ...control, history, walEnd, claim: before?.claim, proven }
  await refuseEarly({ volume, members, configured: walSink.length }, answering, signal)
  const sealed = await session.seal(answering, claim, signal)
  const histories = await gatherHistories(sealed, signal)
  const plan = planRecovery({ volume, members, configured: walSink.length, sealed, histories: histories.parsed })
  logger.info({ generation: String(claim.generation), timeline: control.timeline, redo: formatLsn(control.redo), walEnd: formatLsn(walEnd), plan: plan.kind }, 'sealed the sinks')
  if (plan.kind === 'refuse') throw new BeyondError(plan.code, plan.message)
  // The claim is the volume's from here on, where it is about to be opened under it; before, only the sinks know of it.
  const next: RecoveryState = { claim, members, proven, recovery: plan.kind === 'recover' ? { timeline: plan.timeline, reach: plan.reach } : undefined }
  if (plan.kind === 'recover') {
    await stage({ layout, segmentBytes: control.segmentBytes, fetch: plan.fetch, sealed, histories: histories.files, logger, signal })
    writeFileAtomic(join(layout.postgres, 'recovery.signal'), '', { mode: 0o600, owner: layout.accountOwner })
  }
  writeRecoveryState(layout, next)
  const current = walSink.map((url) => answering.find(({ member }) => member.url === url)?.member ?? members.find((member) => member.url === url))
  const known = current.filter((member) => member !== undefined)
  useSinks(boot, next, known)
  return `generation ${claim.generation}: ${plan.says}`
}

/** A seal stops the primary that runs elsewhere: a volume that can't take its place must not do that. */
async function refuseEarly(input: Omit<RecoveryInput, 'sealed' | 'histories'>, answering: readonly Answering[], signal: AbortSignal): Promise<void> {
  const { parsed: histories } = await gatherHistories(answering, signal)
  const unsealed = answering.map(({ member, look }) => ({ member, systemId: look.systemId, end: look.flushed, attached: attachedOf(look), segments: [] }))
  const plan = planRecovery({ ...input, sealed: unsealed, histories })
  // What is missing may come with the seal; what does not belong together stays so.
  if (plan.kind === 'refuse' && plan.code !== 'DATA_LOST') throw new BeyondError(plan.code, plan.message)
}

function useSinks(boot: Boot, { claim, members, recovery }: RecoveryState, current = members): void {
  const recovering = recovery ? { restore_command: restoreCommand(boot.layout), recovery_target_timeline: recovery.timeline } : {}
  boot.sinks = { claim, members: current, settings: { ...quorumSettings(current), ...recovering } }
}

function checkAnswering(answering: readonly Answering[], urls: readonly string[], isFirst: boolean): void {
  const twice = duplicates(answering.map(({ member }) => member))
  if (twice.length > 0) throw new BeyondError('BAD_ARGUMENT', `BEYOND_PG_WAL_SINK names ${twice.join(', ')} more than once: each sink has a name and a folder of its own.`)
  if (!isFirst || answering.length === urls.length) return
  const missing = urls.filter((url) => !answering.some(({ member }) => member.url === url))
  throw new BeyondError('UNREACHABLE', `Before the first start with sinks all of them have to answer, and ${missing.join(', ')} does not: start it, and start again.`)
}

/** Above all that any of them has seen, and never one that an earlier boot used: a copy of this volume may know that one too. */
function nextClaim(answering: readonly Answering[], before: RecoveryState | undefined): Claim {
  const seen = [before?.claim.generation ?? 0n, ...answering.flatMap(({ look }) => [look.generation, look.seal?.generation ?? 0n])]
  return { generation: seen.reduce((a, b) => (a > b ? a : b)) + 1n, by: randomUUID() }
}

/** Those in the folder of the settings; without it the box's own, which sinks of the same machine are given. */
function readSinkTls({ config, layout }: Boot): SinkTls {
  const { walSinkTls: folder } = config.settings
  const { ca, clientCertificate, clientKey } = layout.tlsFiles
  const paths = folder === undefined ? { ca, cert: clientCertificate, key: clientKey } : { ca: join(folder, 'ca.crt'), cert: join(folder, 'client.crt'), key: join(folder, 'client.key') }
  const read = (path: string): string => {
    try {
      return readFileSync(path, 'utf8')
    } catch (cause) {
      throw new BeyondError('BAD_CERTIFICATE', `Can't read ${path}, which the box shows to its sinks: ${(cause as Error).message}`, { cause, facts: { path } })
    }
  }
  return { ca: read(paths.ca), cert: read(paths.cert), key: read(paths.key) }
}

export const sinkCheck: Step = {
  name: 'sink check',
  asks: 'postgres',
  look: (boot) => {
    if (!boot.sinks) return nothing(NO_SINKS)
    return will('see that Postgres reached all that the sinks had confirmed', async () => {
      const state = given(readRecoveryState(boot.layout), 'the state of the sinks')
      if (!state.recovery) return 'there was nothing to recover'
      await untilWritable(boot)
      const timeline = await currentTimeline(boot)
      await checkReached(boot, state.recovery.reach, timeline)
      return `recovered to ${formatLsn(state.recovery.reach.lsn)} or beyond, now on timeline ${timeline}`
    })
  },
}

const adminOf = ({ layout, config, passwords }: Boot): DatabaseAddress => ({
  host: layout.sockets,
  port: config.postgresPort,
  user: 'beyond_admin',
  password: given(passwords, 'the passwords').beyond_admin,
  database: 'postgres',
})

/** Postgres lets readers in before it is through. */
async function untilWritable(boot: Boot): Promise<void> {
  let toldAt = performance.now()
  for (;;) {
    const [state] = await ask(boot, 'SELECT pg_is_in_recovery() AS recovering, pg_last_wal_replay_lsn()::text AS lsn').catch(() => [{ recovering: true, lsn: null }])
    if (state['recovering'] === false) return
    if (performance.now() - toldAt > TELL_MS) {
      toldAt = performance.now()
      boot.logger.info({ replayed: state['lsn'] }, 'recovering')
    }
    await sleep(LOOK_AGAIN_MS, undefined, { signal: boot.stop })
  }
}

async function ask(boot: Boot, text: string): Promise<Record<string, unknown>[]> {
  return withDatabase(adminOf(boot), QUERY_MS, async (client) => (await client.query<Record<string, unknown>>(text)).rows)
}

async function currentTimeline(boot: Boot): Promise<Timeline> {
  const [row] = await ask(boot, "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int AS timeline")
  return given(toTimeline(Number(row['timeline'])), 'the timeline')
}

/** A recovery that ended early would have lost commits, and its timeline begins too early. */
async function checkReached({ layout }: Boot, reach: SealedEnd, timeline: Timeline): Promise<void> {
  const left = leftAt(await localHistory(layout, timeline), timeline, reach.timeline)
  const isReached = left !== undefined && left !== 'never' && (reach.lastRecord === undefined ? left >= reach.lsn : left > reach.lastRecord)
  if (isReached) return
  throw new BeyondError(
    'DATA_LOST',
    `Postgres recovered to ${left === undefined || left === 'never' ? 'another timeline' : formatLsn(left)}, and the sinks have confirmed ${formatLsn(reach.lsn)} of timeline ${reach.timeline}: nobody was let in; start from another copy of the volume.`,
  )
}

export const sinkGate: Step = {
  name: 'sink gate',
  asks: 'postgres',
  look: (boot) => {
    if (!boot.sinks) return nothing(NO_SINKS)
    const { members } = boot.sinks
    return will(`attach the sinks, and wait until ${writeQuorum(members.length)} of ${members.length} have all`, () => unlessStopped(boot.stop, passGate(boot)))
  },
}

async function passGate(boot: Boot): Promise<string> {
  const { layout, config, logger } = boot
  const { claim, members } = given(boot.sinks, 'the sinks')
  const state = given(readRecoveryState(layout), 'the state of the sinks')
  const password = ensureSinkPassword(layout)
  await ensureSinkRole(boot, password)
  // The volume has all that was confirmed; from here on commits count on the sinks of now.
  writeRecoveryState(layout, { ...state, members })
  const session = new SinkSession(members.map(({ url }) => url), readSinkTls(boot), logger)
  boot.defer(async () => session[Symbol.dispose]())
  const conninfo = primaryConninfoFor(config.listen, config.postgresPort, password)
  const attachAll = (): Promise<void> => attachMembers(session, { claim, members, conninfo, logger: boot.logger, signal: boot.stop })
  const [{ lsn }] = await ask(boot, 'SELECT pg_current_wal_flush_lsn()::text AS lsn')
  await attachAll()
  await untilHeld(boot, members, lsnFromServer(String(lsn)), attachAll)
  const timeline = await currentTimeline(boot)
  writeRecoveryState(layout, { ...state, members, proven: timeline > state.proven ? timeline : state.proven, recovery: undefined })
  clearStage(layout)
  const timer = setInterval(() => void attachAll().catch(() => undefined), RETURN_MS).unref()
  boot.defer(async () => clearInterval(timer))
  return `${writeQuorum(members.length)} of ${members.length} sinks have all up to ${String(lsn)}, generation ${claim.generation}`
}

type AttachOptions = {
  readonly claim: Claim
  readonly members: readonly Member[]
  readonly conninfo: Readonly<Record<string, string>>
  readonly logger: Boot['logger']
  readonly signal: AbortSignal
}

/** Those that don't follow this generation yet: sealed by it first, so that they can belong to no other. */
async function attachMembers(session: SinkSession, { claim, members, conninfo, logger, signal }: AttachOptions): Promise<void> {
  const attach = session.clients.map(async (client) => {
    const look = await client.look(signal)
    if (look.generation === claim.generation && look.seal?.by === claim.by) return
    const member = members.find(({ url }) => url === client.url)
    if (look.sinkId !== member?.sinkId) {
      throw new BeyondError('DATA_LOST', `The sink ${client.url} is not the one that it was: start the box again to count it as a new one.`)
    }
    await client.seal(claim, signal)
    await client.attach(claim, conninfo, signal)
    logger.info({ sink: look.name, generation: String(claim.generation) }, 'attached')
  })
  for (const result of await Promise.allSettled(attach)) {
    if (result.status === 'rejected' && !signal.aborted) logger.warn({ err: { message: (result.reason as Error).message } }, 'a sink is not attached')
  }
}

/** What a crash left visible may never have been acknowledged: nobody sees it before a quorum has it. */
async function untilHeld(boot: Boot, members: readonly Member[], lsn: Lsn, attachAll: () => Promise<void>): Promise<void> {
  let toldAt = performance.now()
  for (;;) {
    const rows = await ask(boot, "SELECT DISTINCT application_name AS name, flush_lsn::text AS lsn FROM pg_stat_replication WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum')")
    const holding = new Set(rows.filter((row) => row['lsn'] !== null && lsnFromServer(String(row['lsn'])) >= lsn).map((row) => String(row['name'])))
    if (members.filter(({ name }) => holding.has(name)).length >= writeQuorum(members.length)) return
    if (performance.now() - toldAt > TELL_MS) {
      toldAt = performance.now()
      const missing = members.filter(({ name }) => !holding.has(name)).map(({ name }) => name)
      boot.logger.warn({ missing }, 'clients wait: too few sinks hold what was recovered')
      await attachAll()
    }
    await sleep(LOOK_AGAIN_MS, undefined, { signal: boot.stop })
  }
}

async function ensureSinkRole(boot: Boot, password: string): Promise<void> {
  await withDatabase(adminOf(boot), QUERY_MS, async (client) => {
    await client.query("SET synchronous_commit = local; SET log_statement = 'none'; SET search_path = pg_catalog")
    const { rows } = await client.query<{ verifier: string | null; right: boolean }>(
      'SELECT rolpassword AS verifier, rolreplication AND rolcanlogin AND NOT rolsuper AS right FROM pg_authid WHERE rolname = $1',
      [SINK_ROLE],
    )
    const [row] = rows
    if (row?.right && verifierMatches(row.verifier, password)) return
    await client.query(`${row ? 'ALTER' : 'CREATE'} ROLE ${SINK_ROLE} LOGIN REPLICATION NOSUPERUSER PASSWORD ${literal(scramVerifier(password))}`)
  })
}


/**
 * A box from its start to its end: the steps of boot.ts, then kept up, then taken down in the opposite order. Who runs it only says
 * what it is and when to stop.
 */
import type { Logger } from 'pino'
import type { BoxConfig } from './box-config.ts'
import { type BoxFile, writeBoxFile } from './box-file.ts'
import { formatPlan, type OnStep, planSteps, takeSteps } from './boot.ts'
import { removeRecord } from './child-process.ts'
import { EarlyLogger } from './early-logger.ts'
import { runHooks } from './hooks.ts'
import { type Layout, lookAtLayout, removeTemporarySockets } from './layout.ts'
import type { Programs } from './programs.ts'
import { reloadBox, type Reloaded, watchSettings } from './reload.ts'
import { pgpassFile } from './secrets.ts'
import { describeBox } from './steps/box-file.ts'
import { offerChanges, type RunnerRequests } from './steps/management.ts'
import { renewCertificates } from './steps/secrets.ts'
import { type Boot, given } from './steps/step.ts'
import { SupervisedChild } from './supervised-child.ts'

export type BoxSurroundings = {
  /** The log of this box; called once, when its directory is locked. */
  readonly openLog: (layout: Layout) => Logger
  /** Aborts for an orderly stop. */
  readonly stop: AbortSignal
  /** Aborts to cut the stop short. */
  readonly hurry: AbortSignal
  /** Aborts when another supervisor is to take over: the children are left running for it. */
  readonly handOver: AbortSignal
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly onReady: (ready: ReadyBox) => void
  /** What the management socket may ask for: the orderly stop, and another supervisor in place of this one. */
  readonly requests?: RunnerRequests
  /** Reads and checks the settings again. */
  readonly readConfig?: () => Promise<BoxConfig>
  /** How often they are read again by themselves, milliseconds; undefined: only when asked. */
  readonly watchMs?: number | undefined
  /** Called around each step of the boot. */
  readonly onStep?: OnStep
}

export type ReadyBox = {
  readonly layout: Layout
  readonly programs: Programs
  readonly box: BoxFile
  readonly pgpass: string
  /** Why changes don't stream, when they should and don't. */
  readonly cdcProblem: string | undefined
  /** What else is wrong and did not stop the boot. */
  readonly problems: readonly string[]
  /** Reads the settings again and takes over what needs no restart. Throws BAD_ARGUMENT, and changes nothing, when one is wrong. */
  readonly reload: () => Promise<Reloaded>
}

/**
 * Brings the box up, keeps it up until `stop`, and leaves no process behind, unless it is handed over. Throws BeyondError when it
 * can't be brought up.
 */
export async function runBox(config: BoxConfig, surroundings: BoxSurroundings): Promise<'stopped' | 'handed-over'> {
  const { openLog, stop, hurry, handOver, environment, onReady, onStep } = surroundings
  await using locks = new AsyncDisposableStack()
  await using children = new AsyncDisposableStack() // stops them in the opposite order, before the lock goes
  const early = new EarlyLogger()
  const boot: Boot = {
    config,
    layout: lookAtLayout(config.dataDir).layout,
    logger: early.logger,
    environment,
    childEnvironment: cleanEnvironment(environment),
    stop,
    problems: [],
    children: {},
    methods: new Map(),
    onLocked: (lock) => {
      locks.use(lock)
      boot.logger = early.handTo(openLog(boot.layout))
    },
    defer: (end) => children.defer(() => end(hurry)),
    keep: (spec) => {
      const survivor = boot.leftovers?.take(spec.name)
      const child = new SupervisedChild(spec, { runDirectory: boot.layout.run, logger: boot.logger, survivor })
      children.defer(() => child.stop(hurry))
      return child
    },
  }
  try {
    await takeSteps(boot, onStep)
  } catch (error) {
    // What ran before goes on: a start that fails, of a new version perhaps, is no reason to stop a database that works.
    if (!stop.aborted) for (const child of Object.values(boot.children)) if (child?.ranBefore) child.release()
    throw error
  }

  const { layout, logger } = boot
  const box = given(boot.box, 'box.json')
  const programs = given(boot.programs, 'the programs')
  const enough = AbortSignal.any([stop, handOver])
  const reload = oneAtATime(() => reloadNow(boot, surroundings))
  offerChanges(boot, { reload, ...surroundings.requests })
  onReady({ layout, programs, box, pgpass: pgpassFile(layout.secrets), cdcProblem: await boot.cdcProblem, problems: boot.problems, reload })
  const { readConfig, watchMs } = surroundings
  if (readConfig && watchMs !== undefined) void watchSettings({ readConfig, reload, current: () => boot.config.settings, logger, signal: enough, everyMs: watchMs })
  await untilAborted(enough)
  if (!stop.aborted) {
    await boot.retuner?.[Symbol.asyncDispose]() // nothing is held back while nobody is there to let it go
    for (const child of Object.values(boot.children)) child?.release()
    logger.info('handing over')
    return 'handed-over'
  }
  logger.info('stopping')
  await runHooks('pre-stop', { config: boot.config, layout, environment: boot.childEnvironment, logger, signal: hurry }).catch(() => undefined) // cut short
  await boot.children.postgres?.prepareStop(hurry) // a checkpoint, while clients are still served
  await children.disposeAsync()
  removeTemporarySockets(layout)
  removeRecord(layout.run, 'supervisor')
  logger.info('stopped')
  return 'stopped'
}

async function reloadNow(boot: Boot, { readConfig }: BoxSurroundings): Promise<Reloaded> {
  const reloaded = await reloadBox(boot, (await readConfig?.()) ?? boot.config)
  await renewCertificates(boot)
  boot.box = describeBox(boot.config, boot.layout, boot.problems)
  writeBoxFile(boot.layout.boxFile, boot.box)
  boot.logger.info({ applied: reloaded.applied, waiting: reloaded.waiting }, 'settings read again')
  return reloaded
}

function oneAtATime<T>(work: () => Promise<T>): () => Promise<T> {
  let last: Promise<unknown> = Promise.resolve()
  return () => {
    const next = last.then(work, work)
    last = next.catch(() => undefined)
    return next
  }
}

/** What `runBox` would do, as text, and nothing done. */
export async function describeBoot(config: BoxConfig, environment: Readonly<Record<string, string | undefined>>, stop: AbortSignal): Promise<string> {
  const boot: Boot = {
    config,
    layout: lookAtLayout(config.dataDir).layout,
    logger: new EarlyLogger().logger,
    environment,
    childEnvironment: cleanEnvironment(environment),
    stop,
    problems: [],
    children: {},
    methods: new Map(),
    onLocked: () => undefined,
    defer: () => undefined,
    keep: () => {
      throw new Error('a plan supervises nothing')
    },
  }
  return formatPlan(await planSteps(boot))
}

/** Children get little: PGDATA, PGPORT and the like of whoever starts us would change what they do. */
function cleanEnvironment(environment: Readonly<Record<string, string | undefined>>): Readonly<Record<string, string>> {
  const kept = ['PATH', 'TMPDIR', 'TZ'].flatMap((name) => (environment[name] === undefined ? [] : [[name, environment[name]]]))
  return { ...(Object.fromEntries(kept) as Record<string, string>), LC_ALL: 'C.UTF-8' }
}

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => (signal.aborted ? resolve() : signal.addEventListener('abort', () => resolve(), { once: true })))
}

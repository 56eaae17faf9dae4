/**
 * Settings read again while the box runs: what can change without a restart is taken over, the rest is told. What is read is checked
 * whole before any of it counts, so a mistake changes nothing.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { BeyondError } from '../errors.ts'
import { type BoxConfig, checkTogether } from './box-config.ts'
import { type BoxSettings, boxSettings, changedSettings, type SettingChange, type SettingName } from './settings.ts'
import { accessRules, layersOf, poolerFiles } from './steps/config-files.ts'
import { extensions, rolesAndDatabases } from './steps/database.ts'
import type { Boot, Step } from './steps/step.ts'

export type Reloaded = {
  /** In force from now on. */
  readonly applied: readonly SettingChange[]
  /** Not in force before the restart that each names. One of Postgres alone comes by itself, from who watches the machine. */
  readonly waiting: readonly SettingChange[]
  /** What is wrong now and stopped nothing. */
  readonly problems: readonly string[]
}

/** The tuning is left to who watches the machine: what it needs may be a restart. */
const STEPS: readonly Step[] = [accessRules, { name: 'config layers', look: (boot) => layersOf(boot, ['01-tuning.conf']) }, poolerFiles, rolesAndDatabases, extensions]

/** Also without any change of settings: Postgres and PgBouncer read their files again, the user's among them. */
export async function reloadBox(boot: Boot, next: BoxConfig): Promise<Reloaded> {
  const changes = changedSettings(boot.config.settings, next.settings)
  const applied = changes.filter(({ need }) => need === 'live')
  const settings = takenOver(boot.config.settings, next.settings)
  checkTogether(settings)
  const { cdc } = boot.config
  boot.config = { ...boot.config, settings, cdc: cdc && { ...cdc, tables: settings.tables } }
  const looked = [boot.userLayer?.problem, ...(boot.extensionProblems ?? [])] // these are looked at again; a hook that failed has failed
  boot.problems.splice(0, Infinity, ...boot.problems.filter((problem) => !looked.includes(problem)))
  for (const step of STEPS) {
    const plan = await step.look(boot)
    const said = (await plan.act?.()) ?? plan.says
    boot.logger.info({ step: step.name, reload: true }, said)
    // Roles and databases may need what the files allow.
    if (step === poolerFiles) await readFilesAgain(boot)
  }
  return { applied, waiting: changes.filter(({ need }) => need !== 'live'), problems: [...boot.problems] }
}

async function readFilesAgain({ userLayer, children, stop, problems }: Boot): Promise<void> {
  await userLayer?.recheck(stop)
  if (userLayer?.problem !== undefined) problems.push(userLayer.problem)
  children.postgres?.reload()
  children.pooler?.reload()
}

/** All but what waits for a restart of the box. */
function takenOver(before: BoxSettings, after: BoxSettings): BoxSettings {
  const names = Object.keys(boxSettings) as SettingName[]
  return Object.fromEntries(names.map((name) => [name, boxSettings[name].need === 'box' ? before[name] : after[name]])) as BoxSettings
}

export type WatchOptions = {
  /** Reads and checks everything; throws where it can't. */
  readonly readConfig: () => Promise<BoxConfig>
  /** Called when something that counts has changed. */
  readonly reload: () => Promise<Reloaded>
  readonly current: () => BoxSettings
  readonly logger: Logger
  readonly signal: AbortSignal
  readonly everyMs: number
}

/** Looks again and again until the signal aborts. A source that can't be read is told once, not every time. */
export async function watchSettings({ readConfig, reload, current, logger, signal, everyMs }: WatchOptions): Promise<void> {
  let told = ''
  while (!signal.aborted) {
    await sleep(everyMs, undefined, { signal, ref: false }).catch(() => undefined)
    if (signal.aborted) return
    try {
      const changes = changedSettings(current(), (await readConfig()).settings)
      const fingerprint = JSON.stringify(changes)
      if (changes.some(({ need }) => need !== 'box')) await reload()
      else if (changes.length > 0 && fingerprint !== told) logger.warn({ changes }, 'settings have changed that wait for a restart')
      told = fingerprint
    } catch (error) {
      if (signal.aborted) return
      const message = error instanceof BeyondError ? error.message : String(error)
      if (message !== told) logger.warn({ err: { message } }, 'the settings can not be read again, so they stay as they are')
      told = message
    }
  }
}

/**
 * The boot: every step from an empty volume to a box that serves, in order. Each looks before it acts and says what it did or why it
 * did nothing; killed at any instruction, the next boot looks again and goes on from what is there.
 */
import { boxFile } from './steps/box-file.ts'
import { changeStream, children, pooler, postgres } from './steps/children.ts'
import { accessRules, changeLogOwner, configLayers, poolerFiles, userSettings } from './steps/config-files.ts'
import { dataDirectory, earlierProcesses, lock, volume } from './steps/data-directory.ts'
import { extensions, rolesAndDatabases } from './steps/database.ts'
import { postStartHooks, preStartHooks } from './steps/hooks.ts'
import { managementSocket } from './steps/management.ts'
import { postgresData } from './steps/postgres-data.ts'
import { sinkCheck, sinkGate, sinks } from './steps/recovery.ts'
import { certificates, passwords, renewal } from './steps/secrets.ts'
import { retuning } from './steps/retuning.ts'
import type { Boot, Step } from './steps/step.ts'
import { promises } from './steps/promises.ts'
import { ports, programs } from './steps/surroundings.ts'

export const bootSteps: readonly Step[] = [
  promises, //          nothing is asked for that can't be kept
  volume, //            the one that was promised, mounted
  dataDirectory, //     ours, with its folders
  lock, //              one box per directory
  managementSocket, //  from here on the boot can be watched
  programs, //          Postgres 18 and PgBouncer
  earlierProcesses, //  what a killed supervisor left running
  ports, //             free, or our own children's
  passwords, //         of the box's roles
  certificates, //      authority, server, subscriber
  postgresData, //      initdb or base backup, beside and renamed; or adopted, version and tier checked
  sinks, //             a quorum is sealed; what the volume lacks is fetched
  accessRules, //       pg_hba.conf, pg_ident.conf
  configLayers, //      conf.d: image, tuning, durability, replication; the user's is never touched
  userSettings, //      tried before each start
  poolerFiles, //       pgbouncer.ini, userlist.txt
  changeLogOwner,
  preStartHooks,
  children, //          taken over, or made ready to start
  postgres,
  sinkCheck, //         to what the sinks have confirmed, or no further
  rolesAndDatabases,
  extensions,
  sinkGate, //          a quorum has all that is visible
  changeStream, //      starts while PgBouncer does
  pooler, //            from here on clients get in
  retuning, //          memory and processors are watched
  renewal, //           of certificates, while it runs
  boxFile, //           where tools find all this
  postStartHooks,
]

export type Moment = 'before' | 'planned' | 'done'

/** Called around each step; tests hold the boot there. */
export type OnStep = (step: string, moment: Moment) => Promise<void> | void

/** Takes every step. Throws where one can't be taken. */
export async function takeSteps(boot: Boot, onStep: OnStep = () => undefined): Promise<void> {
  for (const step of bootSteps) {
    boot.stop.throwIfAborted()
    await onStep(step.name, 'before')
    const startedAt = performance.now()
    const plan = await step.look(boot)
    await onStep(step.name, 'planned')
    const said = (await plan.act?.()) ?? plan.says
    boot.logger.info({ step: step.name, ms: Math.round(performance.now() - startedAt) }, said)
    await onStep(step.name, 'done')
  }
}

export type PlannedStep = {
  readonly step: string
  readonly kind: 'nothing' | 'act' | 'later' | 'refused'
  readonly says: string
}

/** What each step would do now, and nothing done. Ends with the step that would refuse. */
export async function planSteps(boot: Boot): Promise<readonly PlannedStep[]> {
  const planned: PlannedStep[] = []
  for (const { name, look } of bootSteps) {
    try {
      const { act, says } = await look(boot)
      planned.push({ step: name, kind: act ? 'act' : 'nothing', says })
    } catch (error) {
      planned.push({ step: name, kind: 'refused', says: (error as Error).message })
      break
    }
  }
  return planned
}

export function formatPlan(planned: readonly PlannedStep[]): string {
  const marks = { nothing: 'nothing', act: 'WILL', later: 'later', refused: 'REFUSES' }
  const width = Math.max(...planned.map(({ step }) => step.length))
  return planned.map(({ step, kind, says }) => `${step.padEnd(width)}  ${marks[kind].padEnd(7)}  ${says}\n`).join('')
}

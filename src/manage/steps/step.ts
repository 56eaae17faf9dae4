/**
 * What a step of the boot is. It looks, changing nothing, and what it sees is a plan: either nothing is to be done, and why,
 * or an act. An act may be cut off anywhere; looking again then finds what is left to do.
 */
import type { Logger } from 'pino'
import type { BoxConfig } from '../box-config.ts'
import type { BoxFile } from '../box-file.ts'
import type { BoxParts } from '../box-children.ts'
import { BeyondError } from '../../errors.ts'
import type { Layout } from '../layout.ts'
import type { PoolerWorkers } from '../pooler-workers.ts'
import type { Programs } from '../programs.ts'
import type { Passwords } from '../secrets.ts'
import type { Leftovers } from '../leftovers.ts'
import type { Method } from '../rpc-server.ts'
import type { Claim } from '../recovery-plan.ts'
import type { Settings } from '../postgres-config.ts'
import type { Member } from '../sink-quorum.ts'
import type { Retuner } from '../retune.ts'
import type { ChildSpec, SupervisedChild } from '../supervised-child.ts'
import type { UserLayer } from '../user-layer.ts'

export type Plan = {
  /** What will be done, or why nothing is. Completes "step: …". */
  readonly says: string
  /** Undefined: nothing is to be done. What it returns replaces `says` in the log. */
  readonly act?: () => Promise<string | void> | string | void
}

export type Step = {
  readonly name: string
  /** Looks only when the database answers; a dry run can't, unless the box is up. */
  readonly asks?: 'postgres'
  readonly look: (boot: Boot) => Plan | Promise<Plan>
}

export const nothing = (because: string): Plan => ({ says: because })
export const will = (says: string, act: NonNullable<Plan['act']>): Plan => ({ says, act })

/** What steps share. Those that run early fill in what later ones need; a dry run fills in only what it can read. */
export type Boot = {
  /** A reload takes another one. */
  config: BoxConfig
  /** As it is planned until the first step has made it. */
  layout: Layout
  logger: Logger
  /** Of this process; children get less. */
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly childEnvironment: Readonly<Record<string, string>>
  /** Aborts for an orderly stop. */
  readonly stop: AbortSignal
  programs?: Programs
  passwords?: Passwords
  userLayer?: UserLayer
  /** Everything that is wrong and did not stop the boot: for box.json, status and the log. */
  readonly problems: string[]
  /** Those of them that are about extensions. */
  extensionProblems?: readonly string[]
  /** Names of children that run by their records, before anybody has looked closer. */
  recorded?: readonly string[]
  /** What an earlier supervisor left running. */
  leftovers?: Leftovers
  /** Whom commits wait for, as which generation, and what Postgres is told of it; undefined: the box has no sinks. */
  sinks?: { readonly claim: Claim; readonly members: readonly Member[]; readonly settings: Settings }
  children: { postgres?: SupervisedChild; pooler?: PoolerWorkers; cdc?: SupervisedChild | undefined }
  /** Why changes don't stream, when they should and don't; settles when that is known. */
  cdcProblem?: Promise<string | undefined> | undefined
  /** Tunes Postgres while it runs. */
  retuner?: Retuner
  /** What can be asked over the management socket; grows as the box boots. */
  readonly methods: Map<string, Method>
  /** What box.json says, once all serves. */
  box?: BoxFile
  /** Supervises it from here on; children end in the opposite order. */
  readonly keep: (spec: ChildSpec) => SupervisedChild
  /** What else has to end with the box. */
  readonly defer: (end: (hurry: AbortSignal) => Promise<void>) => void
  readonly onLocked: (lock: Disposable) => void
}

/** What an earlier step has filled in. */
export function given<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new BeyondError('INTERNAL', `The step that provides ${what} has not run.`)
  return value
}

export function boxParts(boot: Boot): BoxParts {
  return {
    config: boot.config,
    layout: boot.layout,
    programs: given(boot.programs, 'the programs'),
    passwords: given(boot.passwords, 'the passwords'),
    environment: boot.childEnvironment,
    cdcEnvironment: { ...boot.childEnvironment, ...boot.config.cdc?.environment },
    logger: boot.logger,
  }
}

/**
 * What a volume remembers of its sinks: under which generation it was opened last, which sinks count, what the recovery under way must
 * reach. One small file on the volume itself, so that a copy of the volume remembers what was true when it was made.
 */
import { join } from 'node:path'
import { BeyondError } from '../errors.ts'
import { formatLsn, lsnFromServer } from '../wal/lsn.ts'
import type { Timeline } from '../wal/timeline.ts'
import { readIfThere, writeFileAtomic } from './atomic-file.ts'
import type { Layout } from './layout.ts'
import type { Claim, SealedEnd } from './recovery-plan.ts'
import type { Member } from './sink-quorum.ts'

export type RecoveryState = {
  readonly claim: Claim
  /** Those that counted when commits were acknowledged last, or will at the first start. */
  readonly members: readonly Member[]
  /** The newest timeline that a quorum followed. */
  readonly proven: Timeline
  /** Set from before Postgres starts until it was seen to have reached it. */
  readonly recovery: { readonly timeline: Timeline; readonly reach: SealedEnd } | undefined
}

export const recoveryStateFile = (layout: Layout): string => join(layout.root, 'recovery.json')

export function writeRecoveryState(layout: Layout, { claim, recovery, ...rest }: RecoveryState): void {
  const reach = recovery && { ...recovery.reach, lsn: formatLsn(recovery.reach.lsn), lastRecord: recovery.reach.lastRecord && formatLsn(recovery.reach.lastRecord) }
  const json = { version: 1, ...rest, claim: { ...claim, generation: String(claim.generation) }, recovery: recovery && { ...recovery, reach } }
  writeFileAtomic(recoveryStateFile(layout), `${JSON.stringify(json, undefined, 2)}\n`, { mode: 0o600 })
}

type Json = {
  readonly version: number
  readonly claim: { readonly generation: string; readonly by: string }
  readonly members: readonly Member[]
  readonly proven: Timeline
  readonly recovery?: { readonly timeline: Timeline; readonly reach: { readonly timeline: Timeline; readonly lsn: string; readonly lastRecord?: string } }
}

/** undefined: the volume never had sinks. A damaged file is an error, never a fresh start. */
export function readRecoveryState(layout: Layout): RecoveryState | undefined {
  const path = recoveryStateFile(layout)
  const text = readIfThere(path)
  if (text === undefined) return undefined
  try {
    const { version, claim, members, proven, recovery } = JSON.parse(text) as Json
    if (version !== 1) throw new TypeError(`version ${version}`)
    const { lsn, lastRecord } = recovery?.reach ?? {}
    return {
      claim: { generation: BigInt(claim.generation), by: claim.by },
      members,
      proven,
      recovery: recovery && {
        timeline: recovery.timeline,
        reach: { timeline: recovery.reach.timeline, lsn: lsnFromServer(lsn ?? ''), lastRecord: lastRecord === undefined ? undefined : lsnFromServer(lastRecord) },
      },
    }
  } catch (cause) {
    throw new BeyondError('DATA_DIRECTORY', `${path} can't be read: put back the file that belongs to this volume.`, { cause, facts: { path } })
  }
}

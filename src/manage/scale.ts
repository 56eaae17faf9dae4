/** A box that takes what its machine gives it now: the volume grown, Postgres tuned anew. What it was before, what it is now. */
import type { Logger } from 'pino'
import type { HugePages, Retuner, RetuneReport } from './retune.ts'
import { canGrow, growVolume, readVolume, type Volume } from './volume.ts'

export type VolumeReport = {
  readonly path: string
  readonly fileSystem: string
  readonly device: string
  /** What files may take, in bytes. */
  readonly beforeBytes: number
  readonly afterBytes: number
  readonly deviceBytes: number | undefined
  /** Why the file system was left smaller than its device. */
  readonly problem?: string
}

/** What `beyond-pg scale` and the method `scale` of the management protocol answer. */
export type ScaleReport = Omit<RetuneReport, 'outcome'> & {
  /** `planned`: nothing was done, since nothing was to be. */
  readonly outcome: RetuneReport['outcome'] | 'planned'
  readonly volume: VolumeReport
  readonly hugePages: HugePages
}

export type ScaleOptions = {
  readonly retuner: Retuner
  /** Where the box's data lies. */
  readonly folder: string
  /** On a developer's machine the volume is not the box's. */
  readonly mayGrow: boolean
  readonly logger: Logger
}

/** Applies what has changed, or only says what would. */
export async function scaleBox(options: ScaleOptions, { dryRun, signal }: { dryRun: boolean; signal: AbortSignal }): Promise<ScaleReport> {
  const { retuner, folder } = options
  if (dryRun) {
    const volume = readVolume(folder)
    return { ...(await retuner.preview()), outcome: 'planned', volume: volumeReport(volume, volume), hugePages: await retuner.hugePages() }
  }
  const volume = await growIfLarger(options, signal)
  const report = await retuner.retune()
  return { ...report, volume, hugePages: await retuner.hugePages() }
}

/** Grows the file system when its device has grown. What keeps it from growing is a problem of the report, and stops nothing else. */
export async function growIfLarger({ folder, mayGrow, logger }: Omit<ScaleOptions, 'retuner'>, signal: AbortSignal): Promise<VolumeReport> {
  const before = readVolume(folder)
  if (!canGrow(before)) return volumeReport(before, before)
  if (!mayGrow) return volumeReport(before, before, "the volume is this machine's, not the box's")
  try {
    const { after } = await growVolume(folder, signal)
    logger.info({ path: after.mountPoint, beforeBytes: before.sizeBytes, afterBytes: after.sizeBytes }, 'grew the file system to the size of its device')
    return volumeReport(before, after)
  } catch (error) {
    signal.throwIfAborted()
    return volumeReport(before, before, (error as Error).message)
  }
}

function volumeReport(before: Volume, after: Volume, problem?: string): VolumeReport {
  const { mountPoint: path, fileSystem, device, deviceBytes } = after
  return { path, fileSystem, device, beforeBytes: before.sizeBytes, afterBytes: after.sizeBytes, deviceBytes, ...(problem === undefined ? {} : { problem }) }
}

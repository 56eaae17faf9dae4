/** What has changed between two tunings, and when it is time to apply it. Pure: time comes in as numbers. */
import type { Settings } from './postgres-config.ts'
import type { Tuning, TuningInput } from './tuning.ts'

export type SettingDifference = { readonly name: string; readonly from: string; readonly to: string; readonly restart: boolean }

export function differences(inForce: Settings, wanted: Tuning): readonly SettingDifference[] {
  return wanted.settings
    .filter(({ name, value }) => inForce[name] !== value)
    .map(({ name, value, restart }) => ({ name, from: String(inForce[name] ?? ''), to: String(value), restart }))
}

/** What is wanted as far as a reload applies it; what is in force for all that waits for a restart. */
export function reloadableOnly(inForce: Settings, wanted: Tuning): Settings {
  return Object.fromEntries(wanted.settings.map(({ name, value, restart }) => [name, restart ? (inForce[name] ?? value) : value]))
}

/** Memory that moves by less is no other machine: a balloon breathes, and each restart is a stall. */
const SAME_MEMORY = 0.05

export function isSameMachine(a: TuningInput, b: TuningInput): boolean {
  const near = (x: number, y: number): boolean => x === y || Math.abs(x - y) <= SAME_MEMORY * Math.max(x, y)
  const rest = ({ cpus, memoryIsGiven, profile, tier, ephemeral, primary, lz4 }: TuningInput): string =>
    JSON.stringify([cpus, memoryIsGiven, profile, tier, ephemeral, primary?.maxConnections, primary?.maxWorkerProcesses, lz4])
  const volume = ({ volumeBytes = 0 }: TuningInput): number => volumeBytes
  return near(a.memoryBytes, b.memoryBytes) && near(volume(a), volume(b)) && rest(a) === rest(b)
}

/**
 * When to retune. Several changes in a row (memory, then processors) become one retune: what is read must have been the same for
 * `settleMs`. After a retune that could not be done, the next try waits longer and longer.
 */
export type Watch = {
  /** What was read last, while it differs from what is applied, and since when. */
  readonly pending: { readonly input: TuningInput; readonly since: number } | undefined
  readonly failures: number
  /** Not before this time. */
  readonly notBefore: number
}

export const quiet: Watch = { pending: undefined, failures: 0, notBefore: 0 }

const FIRST_DELAY_MS = 30_000
const LONGEST_DELAY_MS = 600_000

/** `applied` undefined: what is in force is neither what was wanted before nor what is wanted now. */
export function observe(
  watch: Watch,
  applied: TuningInput | undefined,
  read: TuningInput,
  now: number,
  settleMs: number,
): { readonly watch: Watch; readonly retune: boolean } {
  if (applied && isSameMachine(applied, read)) return { watch: quiet, retune: false }
  const isNew = watch.pending === undefined || !isSameMachine(watch.pending.input, read)
  if (isNew) return { watch: { pending: { input: read, since: now }, failures: 0, notBefore: 0 }, retune: settleMs === 0 }
  return { watch, retune: now - (watch.pending?.since ?? now) >= settleMs && now >= watch.notBefore }
}

export function afterFailure(watch: Watch, now: number): Watch {
  const delay = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** Math.min(watch.failures, 10))
  return { ...watch, failures: watch.failures + 1, notBefore: now + delay }
}

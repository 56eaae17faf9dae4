/** A tuning for people and as JSON. Pure. */
import type { Machine } from '../manage/machine.ts'
import type { TunedSetting, Tuning, TuningInput, TuningProfile } from '../manage/tuning.ts'
import { printable } from './terminal.ts'

export type TuningQuestion = TuningInput & { readonly profile: TuningProfile; readonly tier: 'primary' | 'replica' | 'sink'; readonly ephemeral: boolean }

/** Value, restart and reason of each setting, below a line that says for what. */
export function tuningText(question: TuningQuestion, from: Pick<Machine, 'memoryFrom' | 'cpusFrom'>, tuning: Tuning): string {
  const { tier, ephemeral, profile } = question
  const kind = [tier, ...(ephemeral ? ['ephemeral'] : []), profile].join(', ')
  const machine = `${shownSize(question.memoryBytes)} (${from.memoryFrom}), ${question.cpus} ${question.cpus === 1 ? 'CPU' : 'CPUs'} (${from.cpusFrom}), ${kind}`
  if (tuning.settings.length === 0) return `${printable(machine)}\nA sink runs no Postgres: there is nothing to tune.\n`
  const rows = tuning.settings.map(({ name, value, restart, reason }) => [name, shownValue(value), restart ? 'restart' : 'reload', reason])
  return `${printable(machine)}\n\n${table([['setting', 'value', 'change', 'reason'], ...rows])}`
}

export function tuningJson(question: TuningQuestion, from: Pick<Machine, 'memoryFrom' | 'cpusFrom'>, tuning: Tuning): string {
  const { memoryBytes, cpus, tier, ephemeral, profile, volumeBytes } = question
  const machine = { memoryBytes, memoryFrom: from.memoryFrom, cpus, cpusFrom: from.cpusFrom, ...(volumeBytes === undefined ? {} : { volumeBytes }) }
  return `${JSON.stringify({ machine, profile, tier, ephemeral, budgetBytes: tuning.budgetBytes, settings: tuning.settings }, undefined, 2)}\n`
}

export function shownValue(value: TunedSetting['value']): string {
  return typeof value === 'boolean' ? (value ? 'on' : 'off') : String(value)
}

/** `1.5GB`, `512MB`: with Postgres's own units, which are powers of 1024. */
export function shownSize(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']
  let at = 0
  for (; bytes >= 1024 && at < units.length - 1; at++) bytes /= 1024
  return `${Number(bytes.toFixed(1))}${units[at]}`
}

/** Columns as wide as their widest text; the last one ends where it ends. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0].map((_cell, column) => Math.max(...rows.map((row) => row[column].length)))
  const line = (row: readonly string[]): string => row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] + 2))).join('').trimEnd()
  return rows.map((row) => `${line(row)}\n`).join('')
}

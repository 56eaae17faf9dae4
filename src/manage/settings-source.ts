/**
 * Where the settings of a box are read from: the metadata service, a file or nothing but the environment. The environment wins over
 * the other two, a flag over all of them. Reading again while the box runs is the same call once more.
 */
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { BeyondError } from '../errors.ts'
import { METADATA_ADDRESS, readMetadata } from './metadata.ts'
import type { GivenSetting, GivenSettings } from './settings.ts'

export type SettingsSource =
  | { readonly kind: 'environment' }
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'metadata'; readonly address: string; readonly patienceMs?: number }

type Environment = Readonly<Record<string, string | undefined>>

/** What `--settings` says: `environment`, `mmds`, the address of a metadata service, or a file. */
export function parseSettingsSource(text: string, workingDirectory: string): SettingsSource {
  if (text === 'environment') return { kind: 'environment' }
  if (text === 'mmds') return { kind: 'metadata', address: METADATA_ADDRESS }
  if (text.startsWith('http://') && URL.canParse(text)) return { kind: 'metadata', address: text.endsWith('/') ? text : `${text}/` }
  if (text === '') throw bad('--settings must be mmds, environment or the path of a file.')
  return { kind: 'file', path: resolve(workingDirectory, text) }
}

/** Every setting that is given anywhere, as text. Throws rather than give less than all. */
export async function readSettings(source: SettingsSource, environment: Environment, signal: AbortSignal): Promise<GivenSettings> {
  return { ...(await fromSource(source, signal)), ...fromEnvironment(environment) }
}

export function fromEnvironment(environment: Environment): GivenSettings {
  return Object.fromEntries(
    Object.entries(environment).flatMap(([key, text]) => (key.startsWith('BEYOND_') && text ? [[key, { text, origin: key }]] : [])),
  )
}

async function fromSource(source: SettingsSource, signal: AbortSignal): Promise<GivenSettings> {
  switch (source.kind) {
    case 'environment':
      return {}
    case 'file':
      return parseSettingsFile(readText(source.path), source.path)
    case 'metadata': {
      const { address, patienceMs } = source
      return settingsInTree(await readMetadata({ address, signal, ...(patienceMs === undefined ? {} : { patienceMs }) }))
    }
  }
}

/** KEY=VALUE lines with # comments, or one JSON object. Every key counts: one that is no setting is an error later. */
export function parseSettingsFile(text: string, path: string): GivenSettings {
  const found: Record<string, GivenSetting> = {}
  const take = (key: string, value: string): void => {
    if (value === '') return
    if (Object.hasOwn(found, key)) throw bad(`${key} stands twice in ${path}: remove one.`)
    found[key] = { text: value, origin: `${key} in ${path}` }
  }
  if (text.trimStart().startsWith('{')) {
    for (const [key, value] of Object.entries(parseObject(text, path))) take(key, textOf(key, value, path))
    return found
  }
  for (const [at, line] of text.split('\n').entries()) {
    if (/^\s*(#|$)/.test(line)) continue
    const [, key, value] = /^\s*([A-Za-z_]\w*)\s*=\s*(.*?)\s*$/.exec(line) ?? []
    if (key === undefined) throw bad(`Line ${at + 1} of ${path} is not KEY=VALUE.`)
    take(key, /^(["']).*\1$/.test(value) ? value.slice(1, -1) : value)
  }
  return found
}

/** Keys of ours may stand at any depth of the tree, beside what is for others; the same key with two values is an error. */
export function settingsInTree(tree: unknown): GivenSettings {
  const found: Record<string, GivenSetting> = {}
  const walk = (node: unknown, depth: number): void => {
    if (typeof node !== 'object' || node === null || depth > 16) return
    for (const [key, value] of Object.entries(node)) {
      if (!key.startsWith('BEYOND_')) {
        walk(value, depth + 1)
        continue
      }
      const text = textOf(key, value, 'the metadata service')
      if (text === '') continue
      if (found[key] && found[key].text !== text) throw bad(`${key} has two values in the metadata service: remove one.`)
      found[key] = { text, origin: `${key} in the metadata service` }
    }
  }
  walk(tree, 0)
  return found
}

/** Strings, numbers and booleans all occur, and lists of them. Nothing and null are no setting. */
function textOf(key: string, value: unknown, where: string): string {
  if (typeof value === 'string') return value.trim()
  if (typeof value === 'number' || typeof value === 'boolean') return String(value)
  if (value === null) return ''
  if (Array.isArray(value)) return value.map((entry: unknown) => textOf(key, entry, where)).join(',')
  throw bad(`${key} in ${where} must be a text, a number, true, false or a list of them.`)
}

function parseObject(text: string, path: string): Record<string, unknown> {
  try {
    return JSON.parse(text) as Record<string, unknown>
  } catch (error) {
    throw new BeyondError('BAD_ARGUMENT', `${path} is not JSON: ${(error as Error).message}.`, { cause: error })
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw new BeyondError('BAD_ARGUMENT', `The settings in ${path} can't be read: ${(error as NodeJS.ErrnoException).code}.`, { cause: error, facts: { path } })
  }
}

const bad = (message: string): BeyondError => new BeyondError('BAD_ARGUMENT', message)

/**
 * Scripts of the operator that run at moments of the box's life: every executable file in hooks/MOMENT.d, in the order of their names,
 * as whoever runs the box. Each has a bounded time, its output is in the log, and its failure is told and stops nothing.
 */
import { lstatSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { BoxConfig } from './box-config.ts'
import type { Layout } from './layout.ts'
import { runOnce } from './run-once.ts'

export type Moment = 'pre-start' | 'post-start' | 'pre-stop' | 'pre-fork'

export type HookOptions = {
  readonly config: Pick<BoxConfig, 'settings' | 'postgresPort'>
  readonly layout: Pick<Layout, 'hooks' | 'root' | 'sockets'>
  readonly environment: Readonly<Record<string, string>>
  readonly logger: Logger
  readonly signal: AbortSignal
}

/** Paths in the order in which they run. */
export function hooksFor(moment: Moment, { config, layout }: Pick<HookOptions, 'config' | 'layout'>): readonly string[] {
  const folder = join(config.settings.hooks ?? layout.hooks, `${moment}.d`)
  try {
    return readdirSync(folder).sort().map((name) => join(folder, name)).filter((path) => lstatSync(path).isFile())
  } catch {
    return [] // no such folder
  }
}

/** Runs them all; returns a sentence for each that failed. */
export async function runHooks(moment: Moment, options: HookOptions): Promise<readonly string[]> {
  const problems: string[] = []
  for (const path of hooksFor(moment, options)) {
    const problem = reasonToSkip(path) ?? (await runHook(moment, path, options))
    if (problem === undefined) continue
    problems.push(`The ${moment} hook ${path} ${problem}.`)
    options.logger.error({ hook: path, moment }, `this hook ${problem}`)
  }
  return problems
}

async function runHook(moment: Moment, path: string, { config, layout, environment, logger, signal }: HookOptions): Promise<string | undefined> {
  const { code, failure } = await runOnce({
    program: path,
    args: [],
    environment: { ...environment, BEYOND_HOOK: moment, BEYOND_PG_DATA: layout.root, PGHOST: layout.sockets, PGPORT: String(config.postgresPort) },
    onLine: (line) => logger.info({ child: 'hook', hook: path, moment }, line),
    signal,
    withinMs: config.settings.hookSeconds * 1000,
  })
  if (failure !== undefined) return `was ended or did not run: ${failure}`
  return code === 0 ? undefined : `ended with exit code ${code}`
}

/** What others may write is not run as ourselves. */
function reasonToSkip(path: string): string | undefined {
  const { mode, uid } = lstatSync(path)
  if ((mode & 0o022) !== 0) return 'may be written by others, so it was not run: chmod go-w'
  if (uid !== 0 && uid !== process.getuid?.()) return 'belongs to another account, so it was not run'
  return (mode & 0o111) === 0 ? 'is not executable, so it was not run' : undefined
}

/** Which extensions are installed beside Postgres, and which libraries they need from its start on. */
import { readdirSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import type { Programs } from './programs.ts'
import type { ExtensionSetting } from './settings.ts'

/** Those that do nothing, or refuse to be made, unless Postgres has loaded their library at its start. */
const NEEDS_PRELOAD: Readonly<Record<string, string>> = {
  pg_stat_statements: 'pg_stat_statements',
  pg_cron: 'pg_cron',
  pg_partman: 'pg_partman_bgw',
  pgaudit: 'pgaudit',
  pg_search: 'pg_search',
  timescaledb: 'timescaledb',
}

export type Installed = { readonly extensions: ReadonlySet<string>; readonly libraries: ReadonlySet<string> }

/** Relative to the programs, as Postgres itself finds them: …/lib/postgresql/18/bin and …/share/postgresql/18, or …/bin and …/share. */
export function installedExtensions({ postgres }: Pick<Programs, 'postgres'>): Installed {
  const bin = resolve(postgres, '..')
  const versioned = /^(.*)\/lib\/postgresql\/(\d+)\/bin$/.exec(bin)
  const share = versioned ? join(versioned[1], 'share/postgresql', versioned[2]) : join(bin, '../share/postgresql')
  const lib = versioned ? join(bin, '../lib') : join(bin, '../lib/postgresql')
  return { extensions: namesIn(join(share, 'extension'), '.control'), libraries: namesIn(lib, '.so') }
}

/** A library that is not there would keep Postgres from starting: it is left out. */
export function preloadLibraries(wanted: readonly ExtensionSetting[], installed: Installed): readonly string[] {
  const libraries = wanted.flatMap(({ name }) => NEEDS_PRELOAD[name] ?? [])
  return [...new Set(libraries)].filter((library) => installed.libraries.has(library))
}

export const neededLibrary = (extension: string): string | undefined => NEEDS_PRELOAD[extension]

function namesIn(folder: string, suffix: string): ReadonlySet<string> {
  try {
    return new Set(readdirSync(folder).filter((name) => name.endsWith(suffix)).map((name) => basename(name, suffix)))
  } catch {
    return new Set()
  }
}

/**
 * The account under which Postgres, PgBouncer and the CDC service run.
 * Postgres and PgBouncer refuse to run as root; an ordinary user runs everything as himself.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { BeyondError } from '../errors.ts'

export type Account = {
  readonly name: string
  readonly uid: number
  readonly gid: number
  /** True when this process is root and children drop to the account; false when they run as ourselves. */
  readonly separate: boolean
}

export type PasswdEntry = { readonly name: string; readonly uid: number; readonly gid: number }

/** Reads the lines of passwd(5); malformed ones are skipped, as the C library does. */
export function parsePasswd(text: string): readonly PasswdEntry[] {
  return text.split('\n').flatMap((line) => {
    const [name, , uid, gid] = line.split(':')
    return name && /^\d+$/.test(uid ?? '') && /^\d+$/.test(gid ?? '') ? [{ name, uid: Number(uid), gid: Number(gid) }] : []
  })
}

/**
 * As root: `postgres` if the machine has it, else `nobody`. initdb looks its own account up by name,
 * so a made-up uid would not do. A data directory that exists keeps the account that it was made for,
 * so that an account `postgres` that appears later changes nothing.
 */
export function chooseAccount(
  ourselves: { uid: number; gid: number },
  passwd: readonly PasswdEntry[],
  dataOwner: number | undefined,
): Account {
  if (ourselves.uid !== 0) {
    const name = passwd.find((entry) => entry.uid === ourselves.uid)?.name ?? `uid ${ourselves.uid}`
    return { ...ourselves, name, separate: false }
  }
  const candidates = ['postgres', 'nobody'].flatMap((name) => passwd.find((entry) => entry.name === name && entry.uid !== 0) ?? [])
  const chosen = candidates.find((entry) => entry.uid === dataOwner) ?? candidates[0]
  if (!chosen) {
    throw new BeyondError(
      'NO_PERMISSION',
      'Postgres refuses to run as root and this machine has neither an account postgres nor nobody: create one (useradd --system postgres) or start as an ordinary user.',
    )
  }
  return { ...chosen, separate: true }
}

/** The account for this process on this machine. */
export function currentAccount(dataOwner: number | undefined): Account {
  const uid = process.getuid?.() ?? 0
  const gid = process.getgid?.() ?? 0
  return chooseAccount({ uid, gid }, parsePasswd(readFileSync('/etc/passwd', 'utf8')), dataOwner)
}

/** Asks the kernel, as the account, for the first of these paths that it may not use: `x` to enter or run, `r` to read. */
export function firstUnreachable(account: Account, want: 'x' | 'r', paths: readonly string[]): string | undefined {
  const script = 'want=$1; shift; for path; do test "-$want" "$path" || { printf %s "$path"; exit 1; }; done'
  const identity = account.separate ? { uid: account.uid, gid: account.gid } : {}
  const result = spawnSync('/bin/sh', ['-c', script, 'sh', want, ...paths], { ...identity, encoding: 'utf8', cwd: '/' })
  if (result.error) throw result.error
  return result.status === 0 ? undefined : result.stdout
}

/** `/a/b/c` → `/`, `/a`, `/a/b`, `/a/b/c`. */
export function withAncestors(path: string): readonly string[] {
  return path === dirname(path) ? [path] : [...withAncestors(dirname(path)), path]
}

/**
 * Passwords of a box: random, made once, each in a file of its own that only who needs it can read.
 * They never appear in arguments, logs or SQL; Postgres is given verifiers.
 */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { BeyondError } from '../errors.ts'
import { type Owner, readIfThere, writeFileAtomic } from './atomic-file.ts'

export const ROLES = ['postgres', 'beyond_admin', 'beyond_pooler', 'beyond_cdc'] as const
export type Role = (typeof ROLES)[number]
export type Passwords = Readonly<Record<Role, string>>

export const passwordFile = (directory: string, role: Role): string => join(directory, role)
export const pgpassFile = (directory: string): string => join(directory, 'pgpass')

/** `cdcOwner`: who runs the CDC service, undefined for ourselves; the other passwords are read by this process alone. */
export function ensurePasswords(directory: string, cdcOwner: Owner | undefined): Passwords {
  const ensure = (role: Role, owner?: Owner): string => {
    const path = passwordFile(directory, role)
    // Letters, digits, - and _ only: the same text in any quoting, and SASLprep leaves it as it is.
    const password = readIfThere(path)?.trimEnd() ?? randomBytes(24).toString('base64url')
    if (!/^[\w-]{16,128}$/.test(password)) {
      throw new BeyondError('DATA_DIRECTORY', `${path} does not hold a password that was made here: put the right file back.`, { facts: { path } })
    }
    writeFileAtomic(path, `${password}\n`, { mode: 0o600, owner })
    return password
  }
  const passwords: Passwords = {
    postgres: ensure('postgres'),
    beyond_admin: ensure('beyond_admin'),
    beyond_pooler: ensure('beyond_pooler'),
    beyond_cdc: ensure('beyond_cdc', cdcOwner),
  }
  writeFileAtomic(pgpassFile(directory), `*:*:*:postgres:${passwords.postgres}\n`, { mode: 0o600 })
  return passwords
}

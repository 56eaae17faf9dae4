/**
 * Makes a copy of a database a database of its own, before anybody can connect to it: Postgres in single-user mode recovers it, takes
 * the passwords of its new box, and lets go of what belongs to its source. Nothing listens meanwhile.
 * Source: https://www.postgresql.org/docs/18/app-postgres.html ("Options for Single-User Mode")
 */
import { spawn, spawnSync } from 'node:child_process'
import { appendFileSync, existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { escapeLiteral as literal } from 'pg'
import { BeyondError } from '../errors.ts'
import type { Account } from './account.ts'
import { LineSplitter, tellsDiskFull } from './log-line.ts'
import { scramVerifier } from './scram.ts'
import { type Passwords, ROLES } from './secrets.ts'
import { diskFull } from './snapshot.ts'

export type IdentityOptions = {
  /** Of the copy. */
  readonly postgres: string
  readonly programs: { readonly postgres: string }
  readonly account: Account
  readonly environment: Readonly<Record<string, string>>
  /** That its source runs with: libraries that replay needs, limits that it must have. */
  readonly configFile: string
  /** Whose publication is read. */
  readonly database: string
  readonly publication: string
  readonly passwords: Passwords
  readonly signal: AbortSignal
}

export type Identity = {
  readonly systemIdentifier: string
  /** Tables whose changes streamed, as the setting names them: `all`, or a list; undefined without the publication. */
  readonly tables: string | undefined
  /** Subscriptions to other databases that were disabled and lost their slot, which stays their source's. */
  readonly subscriptions: readonly string[]
}

/** Recovery reads WAL from the last checkpoint on, which was made just before; a source that was killed has more to read. */
const RECOVERY_MS = 30 * 60_000
const LAST_LINES = 200

export async function giveIdentity(options: IdentityOptions): Promise<Identity> {
  detach(options.postgres)
  const lines = await singleUser(options, [setPasswords(options.passwords), SUBSCRIPTIONS, 'UPDATE pg_subscription SET subenabled = false, subslotname = NULL', tablesOf(options.publication)])
  const value = (name: string): string | undefined => lines.flatMap((line) => new RegExp(`^\\s+1: ${name} = "(.*)"\\s+\\(typeid`).exec(line)?.[1] ?? [])[0]
  return {
    systemIdentifier: systemIdentifierOf(options),
    tables: value('streamed'),
    subscriptions: value('subscriptions')?.split(',') ?? [],
  }
}

/**
 * WAL of the fork has the same names as its source's, so it must not reach the same archive; and no standby of the source will ever
 * acknowledge its commits. This file wins over all others.
 */
function detach(postgres: string): void {
  const path = join(postgres, 'postgresql.auto.conf')
  const own = { archive_mode: 'off', synchronous_standby_names: '', primary_conninfo: '', restore_command: '' }
  appendFileSync(path, ['', '# Written by beyond-pg fork.', ...Object.entries(own).map(([name, value]) => `${name} = '${value}'`), ''].join('\n'))
}

function setPasswords(passwords: Passwords): string {
  const rows = ROLES.map((role) => `(${literal(role)}, ${literal(scramVerifier(passwords[role]))})`).join(', ')
  return (
    `DO $do$ DECLARE wanted record; BEGIN FOR wanted IN SELECT role, verifier FROM (VALUES ${rows}) AS t (role, verifier) JOIN pg_authid ON rolname = role LOOP ` +
    `EXECUTE format('ALTER ROLE %I PASSWORD %L', wanted.role, wanted.verifier); END LOOP; END $do$`
  )
}

const SUBSCRIPTIONS = `SELECT string_agg(subname::text, ',') AS subscriptions FROM pg_subscription WHERE subenabled OR subslotname IS NOT NULL HAVING count(*) > 0`

const tablesOf = (publication: string): string =>
  `SELECT CASE WHEN puballtables THEN 'all' ELSE (SELECT string_agg(name, ',') FROM (` +
  `SELECT quote_ident(nspname) || '.' || quote_ident(relname) AS name FROM pg_publication_rel JOIN pg_class c ON c.oid = prrelid JOIN pg_namespace n ON n.oid = relnamespace WHERE prpubid = p.oid ` +
  `UNION ALL SELECT quote_ident(nspname) || '.*' FROM pg_publication_namespace JOIN pg_namespace n ON n.oid = pnnspid WHERE pnpubid = p.oid) AS names) END AS streamed ` +
  `FROM pg_publication p WHERE pubname = ${literal(publication)}`

/** Runs the statements; returns what Postgres printed. Throws where one fails, or recovery does. */
async function singleUser(options: IdentityOptions, statements: readonly string[]): Promise<readonly string[]> {
  const { postgres, programs, account, environment, configFile, database, signal } = options
  signal.throwIfAborted()
  const settings = {
    config_file: configFile,
    exit_on_error: 'on',
    log_destination: 'stderr',
    logging_collector: 'off',
    log_line_prefix: '',
    log_statement: 'none',
    log_min_error_statement: 'panic', // a verifier must not reach a log
    lc_messages: 'C',
    synchronous_commit: 'local',
    fsync: 'off', // whoever puts the copy in its place has all of it on disk first, at once
    huge_pages: 'off',
    shared_buffers: '64MB',
    event_triggers: 'off',
  }
  const args = ['--single', '-D', postgres, ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]), database]
  const child = spawn(programs.postgres, args, {
    cwd: '/',
    env: environment,
    stdio: ['pipe', 'pipe', 'pipe'],
    ...(account.separate ? { uid: account.uid, gid: account.gid } : {}),
  })
  const lines: string[] = []
  const splitter = new LineSplitter((line) => {
    lines.push(line)
    if (lines.length > LAST_LINES) lines.shift()
  })
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => splitter.push(text))
  child.stdin.on('error', () => undefined) // it ended before it read all: its last words say why
  child.stdin.end(statements.map((statement) => `${statement}\n`).join(''))
  const cutOff = AbortSignal.any([signal, AbortSignal.timeout(RECOVERY_MS)])
  const kill = (): void => void child.kill('SIGKILL')
  cutOff.addEventListener('abort', kill)
  const end = await new Promise<{ code: number | null; failure?: Error }>((resolve) => {
    child.once('error', (failure) => resolve({ code: null, failure }))
    child.once('close', (code) => resolve({ code }))
  })
  cutOff.removeEventListener('abort', kill)
  splitter.end()
  signal.throwIfAborted()
  const fatal = lines.find((line) => /\b(ERROR|FATAL|PANIC): /.test(line))
  if (end.code === 0 && fatal === undefined) return lines
  if (tellsDiskFull(lines)) throw diskFull(dirname(postgres))
  const why = fatal?.replace(/^.*?\b(ERROR|FATAL|PANIC): +/, '') ?? end.failure?.message ?? (cutOff.aborted ? `recovery took longer than ${RECOVERY_MS / 60_000} minutes` : lines.at(-1))
  throw new BeyondError('CHILD_FAILED', `The copy could not be made a database of its own: ${why ?? 'Postgres said nothing'}.`)
}

function systemIdentifierOf({ postgres, programs, environment }: IdentityOptions): string {
  const program = join(dirname(programs.postgres), 'pg_controldata')
  if (!existsSync(program)) return 'unknown'
  const { stdout } = spawnSync(program, ['-D', postgres], { encoding: 'utf8', env: environment, timeout: 10_000 })
  return /^Database system identifier:\s+(\d+)$/m.exec(stdout ?? '')?.[1] ?? 'unknown'
}

/** Asks Postgres whether it would take settings, without starting it: names, types and ranges, not whether the machine can give so much. */
import { BeyondError } from '../errors.ts'
import type { Account } from './account.ts'
import { postgresLine } from './log-line.ts'
import type { Settings } from './postgres-config.ts'
import { runOnce } from './run-once.ts'

export type PostgresCommand = {
  readonly program: string
  /** The data directory and the config file. */
  readonly args: readonly string[]
  readonly environment: Readonly<Record<string, string>>
  readonly account: Account | undefined
}

const CHECK_MS = 10_000

/** Rejects with what Postgres says. It may run meanwhile. Source: https://www.postgresql.org/docs/18/app-postgres.html, option -C. */
export async function checkSettings(command: PostgresCommand, settings: Settings, signal: AbortSignal): Promise<void> {
  const given = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${String(value)}`])
  const { code, failure, lastLines } = await runOnce({ ...command, args: [...command.args, ...given, '-C', 'max_connections'], signal, withinMs: CHECK_MS })
  if (code === 0) return
  const said = lastLines.map((line) => postgresLine(line).text).filter((text) => !text.startsWith('HINT:'))
  throw new BeyondError('POSTGRES_REFUSED', `Postgres would not start with the new tuning: ${failure ?? (said.join(' / ') || `exit code ${code}`)}`)
}

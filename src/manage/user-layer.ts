/**
 * The user's own settings, 99-user.conf and whatever else lies in conf.d, stand between a box and its start: a mistake in them must
 * not keep it down. Before each start they are tried with `postgres -C`; when that refuses them, or when the last start with
 * them came to nothing, Postgres starts with the box's own layers alone, and that is said loudly until it is mended.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { type Owner, writeFileAtomic } from './atomic-file.ts'
import type { Layout } from './layout.ts'
import { postgresLine } from './log-line.ts'
import { mainConfig, ownLayersConfig, OWN_LAYERS } from './postgres-config.ts'
import type { Programs } from './programs.ts'
import { runOnce } from './run-once.ts'

const CHECK_MS = 30_000

export type UserLayerOptions = {
  readonly layout: Layout
  readonly programs: Programs
  readonly environment: Readonly<Record<string, string>>
  readonly access: { readonly mode: number; readonly owner: Owner | undefined }
  readonly logger: Logger
}

type Attempt = { readonly included: string | undefined; readonly served: boolean }

export class UserLayer {
  readonly #options: UserLayerOptions
  /** The start that was prepared last. */
  #attempt: Attempt | undefined
  /** The text with which a start came to nothing. */
  #refused: string | undefined
  #problem: string | undefined

  constructor(options: UserLayerOptions) {
    this.#options = options
  }

  /** Why the user's settings are left out; undefined while they are in force. */
  get problem(): string | undefined {
    return this.#problem
  }

  /** Before each start of Postgres: decides, and writes the main file accordingly. */
  async prepare(signal: AbortSignal): Promise<void> {
    const last = this.#attempt
    // With them it never served: the next start goes without. When that one fails too, they were not to blame.
    if (last && !last.served) this.#refused = last.included
    const { text, reason } = await this.#judge(signal)
    this.#attempt = { included: reason === undefined && text !== '' ? text : undefined, served: false }
    this.#set(reason)
  }

  /** Postgres serves with what was prepared. */
  served(): void {
    if (this.#attempt) this.#attempt = { ...this.#attempt, served: true }
  }

  /** Whether a start that failed just now may succeed without the user's settings. */
  get mayBeToBlame(): boolean {
    return this.#attempt !== undefined && !this.#attempt.served && this.#attempt.included !== undefined
  }

  /** Before a reload while Postgres runs: what it could not start with is not given to it either. */
  async recheck(signal: AbortSignal): Promise<void> {
    this.#set((await this.#judge(signal)).reason)
  }

  async #judge(signal: AbortSignal): Promise<{ text: string; reason: string | undefined }> {
    const text = this.#text()
    if (text === '') return { text, reason: undefined }
    return { text, reason: text === this.#refused ? 'Postgres did not start with it' : await this.#check(signal) }
  }

  #set(reason: string | undefined): void {
    const { layout, access, logger } = this.#options
    writeFileAtomic(this.#mainFile(), reason === undefined ? mainConfig() : ownLayersConfig(), access)
    if (reason !== undefined && reason !== this.#problem) {
      logger.error({ path: layout.confD, reason }, 'YOUR SETTINGS ARE NOT IN FORCE: Postgres runs without 99-user.conf until it is mended')
    }
    this.#problem = reason === undefined ? undefined : `99-user.conf is not in force: ${reason}. Mend it in ${layout.confD}, then reload or restart.`
  }

  /** What would be read besides our own layers, without comments; empty when there is nothing. */
  #text(): string {
    const { confD } = this.#options.layout
    const names = readdirSync(confD).filter((name) => name.endsWith('.conf') && !OWN_LAYERS.includes(name))
    return names
      .sort()
      .map((name) => readFileSync(join(confD, name), 'utf8'))
      .flatMap((text) => text.split('\n'))
      .filter((line) => !/^\s*(#|$)/.test(line))
      .join('\n')
  }

  /** Undefined when Postgres accepts them. Asks for a value that is computed from all others, so that libraries are loaded too. */
  async #check(signal: AbortSignal): Promise<string | undefined> {
    const { layout, programs, environment, access } = this.#options
    writeFileAtomic(this.#mainFile(), mainConfig(), access)
    const main = `config_file=${this.#mainFile()}`
    const run = (name: string) => {
      const args = ['-D', layout.postgres, '-c', main, '-C', name]
      return runOnce({ program: programs.postgres, args, environment, account: layout.account, signal, withinMs: CHECK_MS })
    }
    // Where Postgres runs, the computed value can't be asked for; the plain one reads every file all the same.
    const isRunning = readdirSync(layout.postgres).includes('postmaster.pid')
    const { code, failure, lastLines } = await run(isRunning ? 'max_connections' : 'shared_memory_size')
    if (code === 0) return undefined
    const texts = lastLines.map((line) => postgresLine(line).text)
    const telling = texts.filter((text) => !/configuration file .* contains errors/.test(text))
    return failure ?? (telling.at(-1) ?? texts.at(-1) ?? `exit code ${code}`)
  }

  #mainFile(): string {
    return join(this.#options.layout.config, 'postgresql.conf')
  }
}

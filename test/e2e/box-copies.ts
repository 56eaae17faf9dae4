/** A box (Postgres and the CDC service's folder) whose parts can be kept and put back while they are stopped. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { TestCdc } from '../support/cdc.ts'
import type { TestPostgres } from '../support/postgres.ts'

export type Part = 'data' | 'data/pg_replslot' | 'cdc'
const BOTH: readonly Part[] = ['data', 'cdc']

export class BoxCopies {
  readonly #postgres: TestPostgres
  readonly #cdc: TestCdc

  constructor(postgres: TestPostgres, cdc: TestCdc) {
    this.#postgres = postgres
    this.#cdc = cdc
  }

  async stop(): Promise<void> {
    await this.#cdc.stop()
    await this.#postgres.stop()
  }

  async start(flags: readonly string[] = []): Promise<void> {
    await this.#postgres.start()
    await this.#cdc.start(flags)
  }

  /** Both must be stopped. */
  keep(name: string): void {
    this.#copy(join(this.#postgres.directory, 'copies', name), this.#postgres.directory, BOTH, true)
  }

  putBack(name: string, parts: readonly Part[] = BOTH): void {
    this.#copy(join(this.#postgres.directory, 'copies', name), this.#postgres.directory, parts, false)
  }

  #copy(copy: string, box: string, parts: readonly Part[], keeps: boolean): void {
    mkdirSync(copy, { recursive: true })
    for (const part of parts) {
      const [from, to] = keeps ? [box, copy] : [copy, box]
      rmSync(join(to, part), { recursive: true, force: true })
      const { status, stderr } = spawnSync('cp', ['-a', join(from, part), join(to, part)], { encoding: 'utf8' })
      if (status !== 0) throw new Error(`cp failed: ${stderr}`)
    }
  }
}

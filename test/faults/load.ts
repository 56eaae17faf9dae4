/**
 * Writers that keep a database busy and survive its crashes. Each transaction leaves a row in `marker` that tells who
 * wrote it and how many rows it has changed, so that the table is a list of all that was committed.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import type { TestPostgres } from '../support/postgres.ts'
import { Random } from '../support/random.ts'

export const TABLES = ['item', 'whole', 'scratch', 'marker'] as const

export const SCHEMA = `
  CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL, body text, big text);
  ALTER TABLE item ALTER big SET STORAGE EXTERNAL;
  CREATE TABLE whole (id bigint PRIMARY KEY, n int NOT NULL, body text, amount numeric, at timestamptz);
  ALTER TABLE whole REPLICA IDENTITY FULL;
  CREATE TABLE scratch (id bigint PRIMARY KEY, n int NOT NULL);
  CREATE TABLE marker (writer int, k bigint, changes int NOT NULL, PRIMARY KEY (writer, k));
`

const STATEMENT_TIMEOUT_MS = 10_000

export class Load {
  readonly #postgres: TestPostgres
  readonly #stop = new AbortController()
  readonly #writers: Promise<void>[]
  /** Messages outside of transactions that Postgres has acknowledged as flushed. */
  readonly messages: string[] = []
  committed = 0

  constructor(postgres: TestPostgres, writers: number, seed: number) {
    this.#postgres = postgres
    this.#writers = Array.from({ length: writers }, (_, writer) => this.#write(writer, new Random(seed + 7919 * (writer + 1))))
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await Promise.all(this.#writers)
  }

  async #write(writer: number, random: Random): Promise<void> {
    let k = 0
    while (!this.#stop.signal.aborted) {
      let client: pg.Client | undefined
      try {
        client = await this.#postgres.client()
        await client.query(`SET statement_timeout = ${STATEMENT_TIMEOUT_MS}`)
        while (!this.#stop.signal.aborted) {
          await this.#transaction(client, random, writer, ++k)
          if (random.chance(0.1)) await sleep(random.integer(1, random.chance(0.1) ? 400 : 20))
        }
      } catch {
        // Postgres was killed, or two writers were in each other's way: what was committed says the marker table.
        await client?.query('ROLLBACK').catch(() => {})
        await sleep(20)
      } finally {
        await client?.end().catch(() => {})
      }
    }
  }

  async #transaction(client: pg.Client, random: Random, writer: number, k: number): Promise<void> {
    if (random.chance(0.05)) {
      const content = `${writer}:${k}`
      // Flushed when it returns: then it must not be lost any more.
      await client.query(`SELECT pg_logical_emit_message(false, 'outside', $1::text, true)`, [content])
      this.messages.push(content)
    }
    if (random.chance(0.01)) await client.query('CHECKPOINT')
    if (random.chance(0.01)) {
      const column = `c${random.integer(1, 4)}`
      await client.query(random.chance(0.5) ? `ALTER TABLE item ADD COLUMN IF NOT EXISTS ${column} int` : `ALTER TABLE item DROP COLUMN IF EXISTS ${column}`)
    }
    await client.query('BEGIN')
    let changes = 0
    const run = async (sql: string, values: unknown[] = []): Promise<void> => {
      const { rowCount } = await client.query(sql, values)
      changes += rowCount ?? 0
    }
    const statements = random.integer(1, 5)
    const fresh = () => 1_000_000_000 * (writer + 1) + k * 10_000
    const near = () => 1_000_000_000 * (writer + 1) + random.integer(Math.max(0, k - 200), k) * 10_000
    for (let i = 0; i < statements; i++) {
      const what = random.next()
      if (what < 0.004)
        await run(`INSERT INTO item SELECT $1::bigint + g, 0, repeat(md5(g::text), 40) FROM generate_series(100, 2500) g`, [fresh() + i])
      else if (what < 0.01) await run(`INSERT INTO item VALUES ($1, 0, 'large', repeat(md5($1::text), $2))`, [fresh() + i, random.integer(100, 60_000)])
      else if (what < 0.4) await run(`INSERT INTO item SELECT $1::bigint + g, 0, 'row ' || g FROM generate_series(0, $2) g`, [fresh() + i * 10, random.integer(0, 4)])
      else if (what < 0.5) await run(`INSERT INTO whole VALUES ($1, 0, repeat(md5($1::text), 80), random(), clock_timestamp())`, [fresh() + i])
      else if (what < 0.65) await run(`UPDATE item SET n = n + 1, body = 'again' WHERE id BETWEEN $1 AND $1 + 9`, [near()])
      else if (what < 0.72) await run(`UPDATE whole SET n = n + 1, amount = -amount WHERE id BETWEEN $1 AND $1 + 9`, [near()])
      else if (what < 0.8) await run(`UPDATE item SET id = id + 5000, n = n + 1 WHERE id = $1 AND NOT EXISTS (SELECT FROM item WHERE id = $1 + 5000)`, [near()])
      else if (what < 0.9) await run(`DELETE FROM item WHERE id BETWEEN $1 AND $1 + 3`, [near()])
      else if (what < 0.94) await run(`DELETE FROM whole WHERE id BETWEEN $1 AND $1 + 3`, [near()])
      else if (what < 0.97) await run(`INSERT INTO scratch VALUES ($1, 0)`, [fresh() + i])
      else if (what < 0.975) {
        await client.query('TRUNCATE scratch')
        changes++
      } else await run(`SELECT pg_logical_emit_message(true, 'inside', $1::text)`, [`${writer}:${k}:${i}`])
    }
    await client.query('INSERT INTO marker VALUES ($1, $2, $3)', [writer, k, changes])
    await client.query(random.chance(0.1) ? 'ROLLBACK' : 'COMMIT')
    this.committed++
  }
}

/** Real WAL for tests: a busy server's segments, what pg_waldump says of them, and the scanner over them. */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { formatLsn, lsnFromServer, toLsn, type Lsn } from '../../src/wal/lsn.ts'
import { segmentFileName, segmentStart } from '../../src/wal/segment-name.ts'
import type { Timeline } from '../../src/wal/timeline.ts'
import { WalScanner } from '../../src/wal/wal-scanner.ts'
import { bindir, type TestPostgres } from '../support/postgres.ts'

export type DumpedRecord = { readonly lsn: Lsn; readonly bytes: number; readonly rmgr: string; readonly description: string }

/** All records from the first segment on to where pg_waldump, which has Postgres's own reader, finds the end. */
export function waldump({ directory, first, segmentBytes, timeline }: Pick<WalFolder, 'directory' | 'first' | 'segmentBytes' | 'timeline'>): DumpedRecord[] {
  // Named, so that it does not take the segment size from any file that lies there.
  const name = segmentFileName({ timeline: timeline as Timeline, number: first }, segmentBytes)
  const args = ['-p', directory, '--start', formatLsn(segmentStart(first, segmentBytes)), name, segmentNames(directory).at(-1) ?? name]
  const { stdout, error } = spawnSync(join(bindir, 'pg_waldump'), args, { encoding: 'utf8', maxBuffer: 1024 ** 3 })
  if (error) throw error
  return stdout.split('\n').flatMap((line) => {
    const match = /^rmgr: (\S+)\s+len \(rec\/tot\):\s*\d+\/\s*(\d+), tx:\s*\d+, lsn: ([0-9A-F/]+), prev [0-9A-F/]+, desc: (.*)$/.exec(line)
    return match ? [{ rmgr: match[1], bytes: Number(match[2]), lsn: lsnFromServer(match[3]), description: match[4] }] : []
  })
}

export type WalFolder = { readonly directory: string; readonly systemId: bigint; readonly segmentBytes: number; readonly first: bigint; readonly timeline: number }

/** Segments one after another, as far as they are there, given to a scanner in pieces of `cut()` bytes. */
export function scanFolder({ directory, systemId, segmentBytes, first, timeline }: WalFolder, cut: () => number = () => segmentBytes): WalScanner {
  const scanner = new WalScanner({ systemId, segmentBytes, timeline, start: segmentStart(first, segmentBytes) })
  for (let number = first; ; number++) {
    const path = join(directory, segmentFileName({ timeline: timeline as Timeline, number }, segmentBytes))
    if (!existsSync(path)) return scanner
    const bytes = readFileSync(path)
    const start = segmentStart(number, segmentBytes)
    // What is given begins at a page border and may end anywhere; what was not taken is given again.
    for (let end = 0; end < bytes.length; ) {
      end = Math.min(bytes.length, end + cut())
      const from = Math.max(0, Number(scanner.position - start))
      const page = from - (from % 8192)
      if (page >= end) continue
      if (!scanner.scan(bytes.subarray(page, end), toLsn(start + BigInt(page)))) return scanner
    }
  }
}

export async function walFolder(postgres: TestPostgres): Promise<Omit<WalFolder, 'first'>> {
  const [[systemId, segmentBytes]] = await postgres.query(
    `SELECT system_identifier::text, (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size') FROM pg_control_system()`,
  )
  return { directory: join(postgres.dataDirectory, 'pg_wal'), systemId: BigInt(systemId), segmentBytes: Number(segmentBytes), timeline: 1 }
}

export const segmentNames = (directory: string): string[] => readdirSync(directory).filter((name) => /^[0-9A-F]{24}$/.test(name)).sort()

/** Settings of a server that writes every kind of record and keeps all WAL. */
export const busySettings = {
  wal_keep_size: '4GB',
  max_wal_size: '4GB',
  wal_recycle: 'off',
  wal_init_zero: 'on',
  max_prepared_transactions: '5',
  track_commit_timestamp: 'on',
  autovacuum: 'off',
}

/** Work that leaves records of nearly every resource manager. */
export async function beBusy(postgres: TestPostgres, rows: number): Promise<void> {
  await postgres.query('CREATE DATABASE other TEMPLATE template0')
  await postgres.query(`CREATE TABLE t (id int, x text, p point, a int[], s serial)`)
  await postgres.query('CREATE INDEX ON t USING btree (x); CREATE INDEX ON t USING hash (id); CREATE INDEX ON t USING gin (a)')
  await postgres.query('CREATE INDEX ON t USING gist (p); CREATE INDEX ON t USING spgist (p); CREATE INDEX ON t USING brin (id)')
  await postgres.query(
    `INSERT INTO t SELECT i, (SELECT string_agg(md5(random()::text || k), '') FROM generate_series(1, 1 + i % 7) k), point(random(), random()), ARRAY[i % 10, i % 100] FROM generate_series(1, ${rows}) i`,
  )
  await postgres.query('CHECKPOINT')
  await postgres.query(`UPDATE t SET x = md5(x), id = id + 1 WHERE id % 3 = 0`)
  await postgres.query('DELETE FROM t WHERE id % 5 = 0')
  await postgres.query('VACUUM (FREEZE) t')
  await postgres.query(`SELECT pg_replication_origin_create('o'), pg_logical_emit_message(true, 'p', repeat('message', 10000))`)
  // Every length, so that every border falls everywhere.
  await postgres.query(`SELECT pg_logical_emit_message(false, 'p', repeat('x', i % 700)) FROM generate_series(1, ${rows}) i`)
  await postgres.query(`BEGIN; INSERT INTO t (id) VALUES (-1); PREPARE TRANSACTION 'two'`)
  await postgres.query(`COMMIT PREPARED 'two'`)
  await postgres.query('BEGIN; INSERT INTO t (id) VALUES (-2); SAVEPOINT a; DELETE FROM t WHERE id < 50; ROLLBACK TO a; COMMIT')
  const [one, other] = [await postgres.client(), await postgres.client()]
  await one.query('BEGIN; SELECT 1 FROM t WHERE id = -1 FOR SHARE')
  await other.query('BEGIN; SELECT 1 FROM t WHERE id = -1 FOR SHARE; COMMIT')
  await one.query('COMMIT')
  for (const client of [one, other]) await client.end()
  await postgres.query('TRUNCATE t')
  await postgres.query('SELECT pg_switch_wal()')
  await postgres.query('INSERT INTO t (id) VALUES (1)')
  await postgres.query('DROP DATABASE other')
}

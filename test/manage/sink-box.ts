/** A box that has sinks: started, crashed, copied, written to. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import type { BoxFile } from '../../src/manage/box-file.ts'
import { BoxProcess, kill, type Ports, processesIn, query, startArguments, until } from './box-process.ts'
import type { TestSinks } from './sink-processes.ts'

export async function start(data: string, ports: Ports, { environment }: TestSinks): Promise<{ box: BoxProcess; file: BoxFile }> {
  const box = new BoxProcess(startArguments(data, ports, '--no-cdc'), { env: environment })
  return { box, file: await box.ready() }
}

/** Everything of the box at once, as when its host dies. */
export async function crash(data: string): Promise<void> {
  await until(() => {
    const pids = processesIn(data)
    for (const pid of pids) kill(pid)
    return pids.length === 0
  })
}

export function copy(from: string, to: string): void {
  rmSync(to, { recursive: true, force: true })
  assert.equal(spawnSync('cp', ['-a', '--reflink=auto', from, to]).status, 0)
}

export const write = (file: BoxFile, from: number, to: number): Promise<unknown> =>
  query(file, `INSERT INTO marks SELECT i, repeat('x', 200) FROM generate_series(${from}, ${to}) i`)

export const count = async (file: BoxFile): Promise<number> => Number((await query(file, 'SELECT count(*)::int AS n FROM marks'))[0]['n'])
export const timeline = async (file: BoxFile): Promise<number> =>
  Number((await query(file, "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int AS t"))[0]['t'])

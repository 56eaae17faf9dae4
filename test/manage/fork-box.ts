/** Forks of a test's box, through the command, and what is asked of them. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type BoxFile, readBoxFile } from '../../src/manage/box-file.ts'
import { beyondPg, query } from './box-process.ts'

export type Made = { readonly name: string; readonly path: string; readonly method: string; readonly ms: number; readonly problems: readonly string[]; readonly state: string }

/** Runs `beyond-pg fork …` and answers what it says; throws its sentence where it fails. */
export async function fork(data: string, ...args: string[]): Promise<Made> {
  const child = spawn(process.execPath, [beyondPg, 'fork', ...args, '--data', data, '--json'], { stdio: ['ignore', 'pipe', 'pipe'] })
  let [out, words] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (words += text))
  const [code] = (await once(child, 'close')) as [number | null]
  if (code !== 0) throw Object.assign(new Error(words), { code })
  return JSON.parse(out) as Made
}

export const list = (data: string): readonly Made[] =>
  JSON.parse(spawnSync(process.execPath, [beyondPg, 'fork', 'list', '--data', data, '--json'], { encoding: 'utf8' }).stdout) as Made[]

/** Once its boot is through. */
export const boxOf = (path: string): BoxFile => readBoxFile(path)

/** What a transfer of pgbench keeps equal; only a whole transaction does. */
export async function checkBalance(box: BoxFile): Promise<number> {
  const [sums] = await query(
    box,
    `SELECT (SELECT sum(abalance) FROM pgbench_accounts)::text AS accounts, (SELECT sum(tbalance) FROM pgbench_tellers)::text AS tellers,
       (SELECT sum(bbalance) FROM pgbench_branches)::text AS branches, (SELECT coalesce(sum(delta), 0) FROM pgbench_history)::text AS history,
       (SELECT count(*)::int FROM pgbench_history) AS count`,
  )
  assert.deepEqual([sums['tellers'], sums['branches'], sums['history']], [sums['accounts'], sums['accounts'], sums['accounts']])
  return sums['count'] as number
}

/** Every page's checksum, and every index beside its table. */
export async function checkPages(box: BoxFile): Promise<void> {
  await query(box, 'CREATE EXTENSION IF NOT EXISTS amcheck')
  await query(
    box,
    `SELECT bt_index_check(index => i.indexrelid, heapallindexed => true) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
     JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relpersistence = 'p' AND i.indisready AND i.indisvalid`,
  )
  const broken = await query(box, `SELECT c.oid::regclass::text AS t, v.* FROM pg_class c, verify_heapam(c.oid) v WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence = 'p'`)
  assert.deepEqual(broken, [])
}

export const settingOf = async (box: BoxFile, name: string): Promise<unknown> => (await query(box, `SELECT current_setting('${name}') AS value`))[0]['value']

/** Makes a fork in a process of its own, which kills itself at a moment of the work. */
export const killedAt = (data: string, name: string, moment: string) =>
  spawnSync(process.execPath, [fileURLToPath(new URL('fork-killed.ts', import.meta.url)), data, name, moment], { encoding: 'utf8' })

export const forksOf = (data: string): string => join(data, '..', 'forks')

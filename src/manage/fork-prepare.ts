/**
 * What a box does just before it is forked: the operator's pre-fork hooks, then a checkpoint, so that the fork has little to replay.
 * In the box or beside it.
 */
import { type DatabaseAddress, withDatabase } from './database-client.ts'
import { type HookOptions, runHooks } from './hooks.ts'
import { unlessStopped } from './unless-stopped.ts'

export type Prepared = {
  /** Where the WAL ended when the checkpoint was done. */
  readonly lsn: string
  /** A sentence for each hook that failed. */
  readonly problems: readonly string[]
}

const CHECKPOINT_MS = 30 * 60_000

/** `admin`: how beyond_admin reaches Postgres. Throws where Postgres does not answer. */
export async function prepareFork(admin: DatabaseAddress, hooks: HookOptions): Promise<Prepared> {
  const problems = await runHooks('pre-fork', hooks)
  const checkpoint = withDatabase(admin, CHECKPOINT_MS, async (client) => {
    await client.query('CHECKPOINT')
    const { rows } = await client.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn')
    return rows[0].lsn
  })
  return { lsn: await unlessStopped(hooks.signal, checkpoint), problems }
}

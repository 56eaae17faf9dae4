import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { createInterface } from 'node:readline'
import { beginningOf, findPosition } from '../../src/log/log-search.ts'
import { genesisPosition } from '../../src/log/manifest.ts'
import { toLsn } from '../../src/wal/lsn.ts'
import { verifiedTransactions } from '../support/log-frames.ts'
import { LogFolder, manifest, readAll } from './log-folder.ts'

const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000_000)
const ROUNDS = 8

/** Lets the process append for a while, kills it, and answers the last line it got out. */
async function appendAndKill(directory: string, lines: number): Promise<string> {
  const child = spawn(process.execPath, [new URL('append-forever.ts', import.meta.url).pathname, directory], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(child, 'close')
  let count = 0
  let last = ''
  try {
    for await (const line of createInterface({ input: child.stdout })) {
      last = line
      if (++count === lines) child.kill('SIGKILL')
    }
  } finally {
    child.kill('SIGKILL')
    await ended
  }
  assert.equal(child.signalCode, 'SIGKILL')
  return last
}

test(`nothing that was reported durable is missing after kill -9 (seed ${seed})`, { timeout: 60_000 }, async () => {
  await using folder = await LogFolder.make()
  let state = seed
  let before = 0
  for (let round = 0; round < ROUNDS; round++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    const [lsn, chain] = (await appendAndKill(folder.path, 1 + (state % 400))).split(' ')
    await using log = await folder.open({ segmentBytes: 20_000 })
    const reported = { lsn: toLsn(BigInt(lsn)), chain: Buffer.from(chain, 'hex') }
    assert.ok(log.head.lsn >= reported.lsn, `the log ends at ${log.head.lsn}, ${reported.lsn} was reported`)
    assert.equal((await findPosition(log, reported)).found, 'place')
    const transactions = verifiedTransactions(await readAll(log, beginningOf(log)), genesisPosition(manifest))
    assert.deepEqual(transactions.at(-1), { lsn: log.head.lsn, chain: log.head.chain })
    assert.ok(transactions.length > before)
    before = transactions.length
  }
})

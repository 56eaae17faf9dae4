/** A process to kill: appends to the log in argv[2] without end and prints each position that is durable. */
import { ChangeLog } from '../../src/log/change-log.ts'
import { cutAppends, TransactionBuilder } from '../support/log-frames.ts'
import { manifest, silent } from './log-folder.ts'

const log = await ChangeLog.open({ directory: process.argv[2], manifest, logger: silent, segmentBytes: 20_000, tailBytes: 100_000 })
const builder = new TransactionBuilder(log.head)
for (let round = 0; ; round++) {
  const transactions = [builder.next([10]), builder.next([500, 30, 2_000]), builder.next([round % 100])]
  const appended = cutAppends(transactions, new Set([0, 2, 4, 6].filter((_, i) => (round >> i) & 1))).map(async (what) => {
    await log.append(what)
    if (what.last) process.stdout.write(`${what.last.lsn} ${what.last.chain.toString('hex')}\n`)
  })
  await Promise.all(appended)
}

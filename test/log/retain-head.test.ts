import assert from 'node:assert/strict'
import { it } from 'node:test'
import { beforeHead } from '../../src/log/log-search.ts'
import { toLsn } from '../../src/wal/lsn.ts'
import { builderFor, wholeAppend } from '../support/log-frames.ts'
import { LogFolder, manifest } from './log-folder.ts'

const nothing = { maxBytes: 0, maxAgeMs: 0, maxConsumerBytes: 0 }

it('keeps the newest transaction, which a restart compares with what Postgres has, when only marks came after it', async () => {
  await using folder = await LogFolder.make()
  await using log = await folder.open({ segmentBytes: 1 })
  const builder = builderFor(manifest)
  const first = builder.next([10])
  const second = builder.next([10])
  await log.append(wholeAppend([first]))
  await log.append(wholeAppend([second]))
  for (let i = 1n; i < 5n; i++) await log.mark(toLsn(second.endLsn + i * 100n))
  await log.retain(nothing, [], 10n ** 18n)
  assert.deepEqual((await beforeHead(log))?.lsn, first.lsn)
  const third = builder.next([10], { gap: 1_000n })
  await log.append(wholeAppend([third]))
  await log.retain(nothing, [], 10n ** 18n)
  assert.deepEqual((await beforeHead(log))?.lsn, second.lsn)
})

it('keeps nothing of a history without transactions but its newest segment', async () => {
  await using folder = await LogFolder.make()
  await using log = await folder.open({ segmentBytes: 1 })
  for (let i = 1n; i < 5n; i++) await log.mark(toLsn(manifest.genesis + i * 100n))
  await log.retain(nothing, [], 10n ** 18n)
  assert.equal(log.segments.length, 1)
})

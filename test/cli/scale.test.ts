import assert from 'node:assert/strict'
import { test } from 'node:test'
import { scaleText } from '../../src/cli/scale.ts'
import type { ScaleReport } from '../../src/manage/scale.ts'

const GB = 2 ** 30

const report: ScaleReport = {
  outcome: 'restarted',
  before: { memoryBytes: 4 * GB, cpus: 2 },
  after: { memoryBytes: 8 * GB, cpus: 4 },
  changed: [
    { name: 'shared_buffers', from: '1024MB', to: '2048MB', restart: true },
    { name: 'work_mem', from: '8031kB', to: '12426kB', restart: false },
  ],
  stallMs: 312,
  volume: { path: '/data', fileSystem: 'xfs', device: '/dev/vdb', beforeBytes: 10 * GB, afterBytes: 20 * GB, deviceBytes: 20 * GB },
  hugePages: { status: 'off', pages: 300 },
}

test('before and after, and what it took', () => {
  assert.equal(
    scaleText(report),
    [
      '        before  after',
      'memory  4GB     8GB',
      'CPUs    2       4',
      'volume  10GB    20GB',
      '',
      'setting         before  after    change',
      'shared_buffers  1024MB  2048MB   restart',
      'work_mem        8031kB  12426kB  reload',
      '',
      'Applied. Postgres was restarted; queries waited for 312 ms.',
      '',
    ].join('\n'),
  )
})

const verdicts: [Partial<ScaleReport>, RegExp][] = [
  [{ outcome: 'planned' }, /^Nothing was done\.$/m],
  [{ outcome: 'unchanged', changed: [] }, /^Postgres is tuned for this machine already\.$/m],
  [{ outcome: 'reloaded' }, /^Applied without a restart\.$/m],
  [{ outcome: 'postponed', reason: 'a base backup is being taken' }, /^Postponed: a base backup is being taken\. .* tried again by itself\.$/m],
  [{ outcome: 'refused', reason: 'Postgres would not start' }, /^Refused, nothing has changed: Postgres would not start$/m],
  [{ outcome: 'rolled-back', reason: 'it ended' }, /^Taken back, .*: it ended\. Queries waited for 312 ms\.$/m],
  [{ volume: { ...report.volume, problem: 'xfs_growfs is not installed' } }, /^The volume on \/dev\/vdb \(20GB\) stays as it is: xfs_growfs is not installed\.$/m],
  [{ outcome: 'unchanged', hugePages: { status: 'off', pages: 4200 } }, /^Postgres would use huge pages .* vm\.nr_hugepages=4200$/m],
]
for (const [more, expected] of verdicts) {
  test(`the verdict: ${expected.source}`, () => assert.match(scaleText({ ...report, ...more }), expected))
}

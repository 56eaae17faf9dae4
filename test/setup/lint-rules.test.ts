// The import directions of the tree, as .oxlintrc.json states them: each forbidden import is reported, each allowed one is not.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, test } from 'node:test'

const root = join(import.meta.dirname, '../..')
const tree = mkdtempSync(join(tmpdir(), 'beyond-lint-'))
after(() => rmSync(tree, { recursive: true, force: true }))
copyFileSync(join(root, '.oxlintrc.json'), join(tree, '.oxlintrc.json'))

/** File of the tree → what it may import, what it may not. */
const table: Record<string, { may: string[]; mayNot: string[] }> = {
  'src/base.ts': {
    may: ['./errors.ts', 'node:fs', 'pg'],
    mayNot: ['./wal/x.ts', './transport/x.ts', './log/x.ts', './manage/x.ts', './sink/x.ts', './decode/x.ts', './pipeline.ts', './beyond-pg.ts', './cdc-service.ts', './cli/x.ts'],
  },
  'src/wal/a.ts': {
    may: ['./lsn.ts', '../errors.ts'],
    mayNot: ['../transport/x.ts', '../log/x.ts', '../decode/x.ts', '../sink/x.ts', '../manage/x.ts', '../pipeline.ts', '../beyond-pg-cdc.ts', '../../test/x.ts'],
  },
  'src/wal/deep/a.ts': { may: ['../lsn.ts'], mayNot: ['../../transport/x.ts'] },
  'src/transport/a.ts': { may: ['./frame.ts', '../wal/lsn.ts', '../errors.ts'], mayNot: ['../log/x.ts', '../decode/x.ts', '../pipeline.ts', '../cli/x.ts'] },
  'src/decode/a.ts': { may: ['../transport/x.ts', '../wal/lsn.ts', './x.ts'], mayNot: ['../log/x.ts', '../sink/x.ts', '../manage/x.ts'] },
  'src/log/a.ts': { may: ['../transport/x.ts', '../wal/lsn.ts', './x.ts'], mayNot: ['../decode/x.ts', '../sink/x.ts', '../manage/x.ts'] },
  'src/sink/a.ts': { may: ['../transport/x.ts'], mayNot: ['../decode/x.ts', '../log/x.ts', '../manage/x.ts'] },
  'src/manage/a.ts': { may: ['../transport/x.ts', '../wal/x.ts'], mayNot: ['../decode/x.ts', '../log/x.ts', '../sink/x.ts', '../pipeline.ts'] },
  'src/pipeline.ts': { may: ['./log/x.ts', './decode/x.ts', './sink/x.ts', './transport/x.ts'], mayNot: ['./cli/x.ts', './beyond-pg.ts', './cdc-service.ts', '../bench/x.ts'] },
  'src/cdc-service.ts': { may: ['./pipeline.ts', './log/x.ts', './transport/x.ts'], mayNot: ['./beyond-pg-cdc.ts', './cli/x.ts'] },
  'src/cli/a.ts': { may: ['../cdc-service.ts', '../pipeline.ts', '../transport/x.ts', './x.ts'], mayNot: ['../beyond-pg-cdc.ts'] },
  'src/beyond-pg-cdc.ts': { may: ['./cli/x.ts', './cdc-service.ts', './pipeline.ts', './log/x.ts'], mayNot: ['./beyond-pg.ts', '../test/x.ts'] },
  'setup/a.mjs': { may: ['./b.mjs', 'node:fs'], mayNot: ['../src/errors.ts', 'pg', 'commander'] },
  'test/a.ts': { may: ['../src/log/x.ts', '../bench/x.ts'], mayNot: [] },
}

test('imports point one way', () => {
  const expected = new Set<string>()
  for (const [file, { may, mayNot }] of Object.entries(table)) {
    mkdirSync(dirname(join(tree, file)), { recursive: true })
    writeFileSync(join(tree, file), [...may, ...mayNot].map((from, index) => `export { x as x${index} } from '${from}'\n`).join(''))
    for (const from of mayNot) expected.add(`${file} ← ${from}`)
  }
  const { stdout } = spawnSync(process.execPath, [join(root, 'node_modules/oxlint/bin/oxlint'), '-f', 'json'], { cwd: tree, encoding: 'utf8' })
  const { diagnostics } = JSON.parse(stdout) as { diagnostics: { filename: string; code: string; labels: { span: { line: number } }[] }[] }
  const found = diagnostics.filter(({ code }) => code.includes('no-restricted-imports')).map(({ filename, labels }) => {
    const { may, mayNot } = table[filename]!
    return `${filename} ← ${[...may, ...mayNot][labels[0]!.span.line - 1]}`
  })
  assert.deepEqual([...new Set(found)].sort(), [...expected].sort())
})

import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { installedExtensions, preloadLibraries } from '../../src/manage/extensions.ts'

for (const [what, bin, share, lib] of [
  ['Debian', 'usr/lib/postgresql/18/bin', 'usr/share/postgresql/18/extension', 'usr/lib/postgresql/18/lib'],
  ['a build of its own', 'pg/bin', 'pg/share/postgresql/extension', 'pg/lib/postgresql'],
]) {
  test(`what is installed beside the programs, laid out as in ${what}`, (t) => {
    const root = mkdtempSync(join(tmpdir(), 'beyond-extensions-'))
    t.after(() => rmSync(root, { recursive: true }))
    for (const folder of [share, lib]) mkdirSync(join(root, folder), { recursive: true })
    writeFileSync(join(root, share, 'vector.control'), '')
    writeFileSync(join(root, share, 'pg_cron.control'), '')
    writeFileSync(join(root, lib, 'pg_cron.so'), '')
    const installed = installedExtensions({ postgres: join(root, bin, 'postgres') })
    assert.deepEqual([...installed.extensions].sort(), ['pg_cron', 'vector'])
    const wanted = ['vector', 'pg_cron', 'pg_stat_statements', 'pg_cron'].map((name) => ({ name, database: undefined }))
    assert.deepEqual(preloadLibraries(wanted, installed), ['pg_cron'], 'only what needs it, only what is there, once')
  })
}

test('no folder at all is nothing installed', () => {
  const installed = installedExtensions({ postgres: '/nonexistent/bin/postgres' })
  assert.equal(installed.extensions.size + installed.libraries.size, 0)
})

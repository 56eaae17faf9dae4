// Set-up as a whole, in a copy of the clone and with tools that fail or hang: one sentence, the right exit code, nothing half-made.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

const root = join(import.meta.dirname, '../..')
const folders: string[] = []
after(() => folders.forEach((folder) => rmSync(folder, { recursive: true, force: true })))

/** A clone in which nothing is set up, and tools (shell text by name) that come before the machine's. */
function clone(tools: Record<string, string>, { packages = false } = {}): { folder: string; env: NodeJS.ProcessEnv } {
  const folder = mkdtempSync(join(tmpdir(), 'beyond-setup-'))
  folders.push(folder)
  for (const name of ['setup', 'package.json', 'package-lock.json', 'bin']) cpSync(join(root, name), join(folder, name), { recursive: true })
  if (packages) symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  mkdirSync(join(folder, 'tools'))
  for (const [name, text] of Object.entries(tools)) {
    writeFileSync(join(folder, 'tools', name), `#!/bin/sh\n${text}\n`)
    chmodSync(join(folder, 'tools', name), 0o755)
  }
  const { BEYOND_PG_BINDIR: _, BEYOND_PGBOUNCER: __, ...env } = process.env
  return { folder, env: { ...env, BEYOND_PG_CACHE: join(folder, 'cache'), PATH: `${join(folder, 'tools')}:/usr/bin:/bin` } }
}

async function setUp(at: ReturnType<typeof clone>, env: NodeJS.ProcessEnv = {}, whileRunning?: (pid: number) => Promise<void>) {
  const child = spawn(process.execPath, [join(at.folder, 'setup/run.mjs')], { env: { ...at.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'], cwd: at.folder })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
  const closed = once(child, 'close')
  await whileRunning?.(child.pid!)
  const [code] = await closed
  return { code: code as number | null, lines: text.trim().split('\n') }
}

async function exists(path: string): Promise<void> {
  const end = performance.now() + 15_000
  while (!existsSync(path)) {
    assert.ok(performance.now() < end, `${path} did not appear`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

test('no network for npm: one sentence, exit code 5, and no stamp', async () => {
  const at = clone({ npm: 'echo "npm error code ENOTFOUND" >&2; exit 1' })
  const { code, lines } = await setUp(at)
  assert.equal(code, 5)
  assert.match(lines.at(-1)!, /^beyond-pg: npm can't reach its package registry \(ENOTFOUND\)/)
  assert.ok(!existsSync(join(at.folder, 'node_modules/.beyond-setup')))
})

test('SIGTERM while npm works: npm is ended, the sentence says how to go on', async () => {
  const at = clone({ npm: 'echo $$ > npm.pid; exec sleep 60' })
  const { code, lines } = await setUp(at, {}, async (pid) => {
    await exists(join(at.folder, 'npm.pid'))
    process.kill(pid, 'SIGTERM')
  })
  assert.equal(code, 143)
  assert.equal(lines.at(-1), 'beyond-pg: Set-up was interrupted: start it again, and it goes on from there.')
  assert.deepEqual(readdirSync(join(at.folder, 'cache')), [])
})

test('BEYOND_PG_BINDIR without a Postgres, or with another version', async () => {
  const at = clone({ postgres: 'echo "postgres (PostgreSQL) 16.4"' }, { packages: true })
  const nothing = await setUp(at, { BEYOND_PG_BINDIR: '/nowhere' })
  assert.deepEqual([nothing.code, nothing.lines.length], [5, 1])
  assert.match(nothing.lines[0]!, /BEYOND_PG_BINDIR names \/nowhere, where no postgres runs/)
  const old = await setUp(at, { BEYOND_PG_BINDIR: join(at.folder, 'tools') })
  assert.match(old.lines[0]!, /BEYOND_PG_BINDIR names Postgres 16\.4, and 18 is needed/)
})

test('BEYOND_PGBOUNCER that is too old', async () => {
  const at = clone({ postgres: 'echo "postgres (PostgreSQL) 18.1"', pgbouncer: 'echo "PgBouncer 1.18.0"' }, { packages: true })
  const { code, lines } = await setUp(at, { BEYOND_PG_BINDIR: join(at.folder, 'tools'), BEYOND_PGBOUNCER: join(at.folder, 'tools/pgbouncer') })
  assert.equal(code, 5)
  assert.match(lines[0]!, /names PgBouncer 1\.18, and 1\.24 or later is needed/)
})

test("the machine's own programs are taken when they fit, and handed on with absolute paths", async () => {
  const at = clone({ postgres: 'echo "postgres (PostgreSQL) 18.1"', pgbouncer: 'echo "PgBouncer 1.24.1"' }, { packages: true })
  const { code, lines } = await setUp(at, { BEYOND_PG_BINDIR: 'tools' })
  assert.equal(code, 0)
  assert.deepEqual(lines.slice(1), [`Postgres: ${at.folder}/tools`, `PgBouncer: ${at.folder}/tools/pgbouncer`])
})

test('an unreachable package archive: one sentence, and nothing half-made', async (context) => {
  if (existsSync('/usr/lib/postgresql/18/bin/postgres')) return context.skip('this machine has Postgres 18')
  const at = clone({
    'apt-get': 'case "$*" in *indextargets*) echo "http://m.invalid/debian/|x|main|Packages|";; *update*) echo "E: Could not resolve \'m.invalid\'"; exit 100;; esac',
    pg_config: 'exit 1',
  }, { packages: true })
  const { code, lines } = await setUp(at)
  assert.equal(code, 5)
  assert.match(lines.at(-1)!, /package archive can't be reached: check the network/)
  assert.deepEqual(readdirSync(join(at.folder, 'cache')), ['apt'])
})

test('a lock whose holder is gone does not keep anybody waiting', async () => {
  const at = clone({ npm: 'echo "npm error code E404" >&2; exit 1' })
  mkdirSync(join(at.folder, 'cache'))
  writeFileSync(join(at.folder, 'cache/setup.lock'), '1 0')
  const { code } = await setUp(at)
  assert.equal(code, 5)
})

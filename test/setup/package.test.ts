// The published package: what npm packs, unpacked elsewhere, is complete and is imported by its name.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

const root = join(import.meta.dirname, '../..')
const temp = mkdtempSync(join(tmpdir(), 'beyond-package-'))
after(() => rmSync(temp, { recursive: true, force: true }))

/** Runs it, and shows what it said where it fails. */
function run(cwd: string, command: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: 'utf8', env: { ...process.env, npm_config_cache: join(temp, 'npm') } })
  assert.equal(status, 0, `${command} ${args.join(' ')}: ${stdout}${stderr}`)
  return stdout
}

test('the packed package is complete', { skip: !existsSync(join(root, 'src/transport/client.ts')) }, () => {
  // Built beside the tree, so that a dist/ of the developer's stays as it is.
  const stage = join(temp, 'stage')
  mkdirSync(stage)
  for (const name of ['package.json', 'README.md', 'LICENSE', 'CHANGELOG.md', 'bin', 'schemas']) {
    if (existsSync(join(root, name))) cpSync(join(root, name), join(stage, name), { recursive: true })
  }
  run(root, process.execPath, 'node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json', '--outDir', join(stage, 'dist'))
  run(stage, 'npm', 'pack', '--ignore-scripts', '--pack-destination', temp)

  const tarball = readdirSync(temp).find((name) => name.endsWith('.tgz'))!
  const user = join(temp, 'user')
  mkdirSync(join(user, 'node_modules'), { recursive: true })
  run(temp, 'tar', '-xzf', tarball)
  for (const name of readdirSync(join(root, 'node_modules'))) {
    if (!name.startsWith('.')) symlinkSync(join(root, 'node_modules', name), join(user, 'node_modules', name))
  }
  cpSync(join(temp, 'package'), join(user, 'node_modules/beyond-pg'), { recursive: true })

  const installed = readdirSync(join(user, 'node_modules/beyond-pg'), { recursive: true, encoding: 'utf8' })
  for (const name of ['bin/beyond-pg.mjs', 'bin/beyond-pg-cdc.mjs', 'dist/transport/client.js', 'dist/transport/client.d.ts', 'schemas/welcome.avsc', 'LICENSE']) {
    assert.ok(installed.includes(name), `${name} is missing`)
  }
  assert.deepEqual(installed.filter((name) => /^(src|test|setup|bench|node_modules)\//.test(name) || (name.endsWith('.ts') && !name.endsWith('.d.ts'))), [])

  // The client reads its schemas when it is loaded: an import that works has found them.
  writeFileSync(join(user, 'use.mjs'), `import * as client from 'beyond-pg/client'\nconsole.log(Object.keys(client).length > 0)\n`)
  assert.equal(run(user, process.execPath, 'use.mjs').trim(), 'true')
  writeFileSync(join(user, 'use.ts'), `import * as client from 'beyond-pg/client'\nexport const names: string[] = Object.keys(client)\n`)
  run(user, process.execPath, join(root, 'node_modules/typescript/bin/tsc'), '--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2024',
    '--lib', 'es2024,esnext.disposable', '--types', 'node', '--typeRoots', join(root, 'node_modules/@types'), '--skipLibCheck', 'false', '--ignoreConfig', 'use.ts')
})

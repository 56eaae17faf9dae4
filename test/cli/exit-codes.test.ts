/** What a parent process sees of `beyond-pg-cdc`: exit codes and standard error, without any service. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { cdcProgram } from '../support/cdc.ts'

const directory = mkdtempSync(join(tmpdir(), 'beyond-pg-test-exit-'))
after(() => rmSync(directory, { recursive: true, force: true }))

function run(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(
    process.execPath,
    [cdcProgram, ...args],
    { encoding: 'utf8', cwd: directory, env: { PATH: process.env['PATH'] ?? '' }, timeout: 20_000 },
  )
}

describe('beyond-pg-cdc ends', () => {
  it('with 0 after --help and --version', () => {
    assert.equal(run('--help').status, 0)
    const { status, stdout } = run('--version')
    assert.equal(status, 0)
    assert.match(stdout, /^\d+\.\d+\.\d+\n$/)
  })

  for (const args of [
    ['nonsense'],
    ['tail', '--from', 'x'],
    ['tail', '--limit', '0'],
    ['tail', '--operation', 'upsert'],
    ['tail', '--bad'],
    ['tail', '--server', 'a:1'],
  ])
    it(`with 2 after ${args.join(' ')}`, () => {
      const { status, stdout, stderr } = run(...args)
      assert.equal(status, 2)
      assert.equal(stdout, '')
      assert.notEqual(stderr, '')
    })

  it('with 3, a sentence and the code when there is no box', () => {
    const { status, stderr } = run('tail')
    assert.equal(status, 3)
    assert.match(stderr, /^beyond-pg-cdc: There is no box in .*npm start.*\[UNREACHABLE\]\n$/)
  })

  it('with an error as JSON when asked', () => {
    const { status, stderr } = run('status', '--json')
    assert.equal(status, 3)
    const { error } = JSON.parse(stderr) as { error: { code: string; message: string; path: string } }
    assert.equal(error.code, 'UNREACHABLE')
    assert.equal(error.path, join(directory, '.beyond', 'box.json'))
  })

  it('with 5 when certificates are missing or none', () => {
    assert.match(run('status', '--server', '127.0.0.1:9', '--ca', 'no', '--cert', 'no', '--key', 'no').stderr, /\[BAD_CERTIFICATE\]/)
    writeFileSync(join(directory, 'junk'), 'junk')
    assert.equal(run('status', '--server', '127.0.0.1:9', '--ca', 'junk', '--cert', 'junk', '--key', 'junk').status, 5)
  })
})

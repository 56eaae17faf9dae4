import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { openPidFd, reap } from '../src/pidfd.ts'

test('the end of a process is seen, whoever started it', async (t) => {
  // The shell ends at once, so what it started is no child of ours.
  const { stdout } = spawnSync('/bin/sh', ['-c', 'sleep 600 >/dev/null 2>&1 & echo $!'], { encoding: 'utf8' })
  const pid = Number(stdout)
  t.after(() => spawnSync('kill', ['-9', String(pid)]))
  const held = openPidFd(pid)
  if (!held) return t.skip('this kernel gives no pidfd')
  assert.equal(held.hasEnded(), false)
  assert.equal(reap(pid), undefined)
  held.signal('SIGTERM')
  for (const deadline = Date.now() + 5_000; !held.hasEnded(); await sleep(5)) assert.ok(Date.now() < deadline)
  held.signal('SIGTERM') // harmless
  held[Symbol.dispose]()
  held[Symbol.dispose]()
})

test('there is none for a process that is gone', async () => {
  const child = spawn('/bin/true')
  await once(child, 'exit')
  assert.equal(openPidFd(child.pid ?? 0), undefined)
})

// Signals and ends pass through the wrapper unchanged: once each, whether they reach it alone or with its whole group.

import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { test } from 'node:test'

const runProgram = join(import.meta.dirname, '../../setup/run-program.mjs')

/** Reports each signal that it gets; ends with code 7 when it has got `ends` of them, with some time for one too many. */
const reporter = `
  let left = Number(process.argv[1])
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => {
    console.log(signal)
    if (--left === 0) setTimeout(() => process.exit(7), 700)
  })
  setInterval(() => {}, 1000)
  console.log('ready')`

/** The wrapper, in a process group of its own, around a program given as source text. */
function wrapped(source: string, ...args: string[]): ChildProcess & { text: () => string } {
  const wrapper = `const { runProgram } = await import(${JSON.stringify(runProgram)})
    runProgram(process.execPath, ['-e', ...process.argv.slice(1)], process.env, () => process.exit(99))`
  const child = spawn(process.execPath, ['--input-type=module', '-e', wrapper, source, ...args], { detached: true, stdio: ['ignore', 'pipe', 'inherit'] })
  let out = ''
  child.stdout!.setEncoding('utf8').on('data', (text: string) => (out += text))
  return Object.assign(child, { text: () => out })
}

async function said(child: ReturnType<typeof wrapped>, text: string): Promise<void> {
  while (!child.text().includes(text)) {
    assert.equal(child.exitCode ?? child.signalCode, null, `ended before it said ${text}`)
    await Promise.race([once(child.stdout!, 'data'), once(child, 'exit')])
  }
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  test(`${signal} to the wrapper alone reaches the program once`, async () => {
    const child = wrapped(reporter, '1')
    await said(child, 'ready')
    child.kill(signal)
    const end = await once(child, 'exit')
    assert.deepEqual([...end, child.text()], [7, null, `ready\n${signal}\n`])
  })

  test(`${signal} to the whole group, and once more to the wrapper as npm does it, reaches the program once`, async () => {
    const child = wrapped(reporter, '1')
    await said(child, 'ready')
    process.kill(-child.pid!, signal)
    child.kill(signal)
    const end = await once(child, 'exit')
    assert.deepEqual([...end, child.text()], [7, null, `ready\n${signal}\n`])
  })
}

test('a second Ctrl-C reaches the program as a second one', async () => {
  const child = wrapped(reporter, '2')
  await said(child, 'ready')
  process.kill(-child.pid!, 'SIGINT')
  await said(child, 'SIGINT\n')
  process.kill(-child.pid!, 'SIGINT')
  const end = await once(child, 'exit')
  assert.deepEqual([...end, child.text()], [7, null, 'ready\nSIGINT\nSIGINT\n'])
})

test('the exit code passes through', async () => {
  const [code, signal] = await once(wrapped('process.exit(42)'), 'exit')
  assert.deepEqual([code, signal], [42, null])
})

test('death by a signal passes through', async () => {
  const [code, signal] = await once(wrapped('process.kill(process.pid, "SIGTERM"); setInterval(() => {}, 1000)'), 'exit')
  assert.deepEqual([code, signal], [null, 'SIGTERM'])
})

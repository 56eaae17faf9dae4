import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import pino from 'pino'
import { BeyondError } from '../../src/errors.ts'
import { readRecord } from '../../src/manage/child-process.ts'
import { isAlive } from '../../src/manage/process-identity.ts'
import { type ChildSpec, SupervisedChild } from '../../src/manage/supervised-child.ts'
import { until } from './box-process.ts'

type Setup = { child: SupervisedChild; lines: string[]; runDirectory: string }

/** A shell script as a child that is ready when it has said so. */
function shell(t: TestContext, script: string, more: Partial<ChildSpec> = {}): Setup {
  const runDirectory = mkdtempSync(join(tmpdir(), 'beyond-run-'))
  const lines: string[] = []
  let onReady = (): void => undefined
  const child = new SupervisedChild(
    {
      name: 'test',
      program: '/bin/sh',
      args: ['-c', script],
      environment: { PATH: process.env['PATH'] ?? '' },
      account: undefined,
      interpret: (line) => ({ level: 'info', text: line }),
      takeLine: (line) => {
        lines.push(line)
        if (line === 'ready') onReady()
        return line === 'ready'
      },
      ready: (_process, signal) =>
        new Promise((resolve, reject) => {
          onReady = resolve
          signal.addEventListener('abort', () => reject(signal.reason as Error))
        }),
      stopSteps: [{ signal: 'SIGTERM', withinMs: 5_000 }],
      hurrySignal: 'SIGKILL',
      ...more,
    },
    { runDirectory, logger: pino({ level: 'silent' }) },
  )
  t.after(async () => {
    await child.stop(AbortSignal.abort())
    rmSync(runDirectory, { recursive: true })
  })
  return { child, lines, runDirectory }
}

const never = new AbortController().signal

test('is recorded while it runs, and stops', async (t) => {
  const { child, runDirectory } = shell(t, 'echo ready; exec sleep 600')
  await child.start()
  assert.equal(child.state.status, 'running')
  const record = readRecord(runDirectory, 'test')
  assert.ok(record && isAlive(record))
  await child.stop(never)
  assert.equal(child.state.status, 'stopped')
  assert.equal(isAlive(record), false)
  assert.equal(existsSync(join(runDirectory, 'test.json')), false)
  await child.stop(never)
})

test('is started again when it ends, and again', async (t) => {
  const { child, lines } = shell(t, 'echo ready; sleep 0.01')
  await child.start()
  await until(() => lines.filter((line) => line === 'ready').length >= 3)
})

test('a first start that fails is told with its last words, and tried again', async (t) => {
  const { child, lines } = shell(t, 'echo bad luck >&2; exit 7')
  await assert.rejects(child.start(), (error) => error instanceof BeyondError && error.code === 'CHILD_FAILED' && /exit code 7: bad luck/.test(error.message))
  await until(() => lines.length >= 2)
})

test('a full disk is told as such', async (t) => {
  const { child } = shell(t, 'echo "could not write: No space left on device"; exit 1')
  await assert.rejects(child.start(), (error) => error instanceof BeyondError && error.code === 'DISK_FULL')
})

test('a program that is not there is told as such', async (t) => {
  const { child } = shell(t, '', { program: '/nonexistent' })
  await assert.rejects(child.start(), /could not be started/)
})

test('one that is not ready in time is ended', async (t) => {
  const { child } = shell(t, 'exec sleep 600', { readyWithinMs: 100 })
  await assert.rejects(child.start(), /signal SIGKILL/)
})

test('one that ignores its signal is killed with its group, after its time', async (t) => {
  const { child, runDirectory } = shell(t, 'trap "" TERM; echo ready; sleep 600 & while :; do wait; done', { stopSteps: [{ signal: 'SIGTERM', withinMs: 100 }] })
  await child.start()
  const record = readRecord(runDirectory, 'test')
  await child.stop(never)
  assert.ok(record && !isAlive(record))
})

test('hurry cuts a stop short that is under way', async (t) => {
  const { child } = shell(t, 'trap "" TERM; echo ready; while :; do sleep 0.05; done', { stopSteps: [{ signal: 'SIGTERM', withinMs: 600_000 }] })
  await child.start()
  const hurry = new AbortController()
  const stopping = child.stop(hurry.signal)
  hurry.abort()
  await stopping
  assert.equal(child.state.status, 'stopped')
})

test('a stop ends a back-off and a start that waits', async (t) => {
  const hopeless = shell(t, 'exit 5', { isHopeless: () => true })
  await assert.rejects(hopeless.child.start())
  assert.equal(hopeless.child.state.status, 'backing-off')
  await hopeless.child.stop(never)
  const waiting = shell(t, 'exec sleep 600')
  const started = waiting.child.start()
  await waiting.child.stop(never)
  await assert.rejects(started, (error) => error instanceof BeyondError && error.code === 'SHUTDOWN')
})

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import pino from 'pino'
import { BeyondError } from '../../src/errors.ts'
import { readRecord } from '../../src/manage/child-process.ts'
import { isAlive } from '../../src/manage/process-identity.ts'
import { type ChildSpec, SupervisedChild } from '../../src/manage/supervised-child.ts'
import { until } from './box-process.ts'

type Setup = { child: SupervisedChild; spec: ChildSpec; lines: string[]; runDirectory: string }

/** A shell script as a child that is ready when it has said so. */
function shell(t: TestContext, script: string, more: Partial<ChildSpec> = {}): Setup {
  const runDirectory = mkdtempSync(join(tmpdir(), 'beyond-run-'))
  const lines: string[] = []
  let onReady = (): void => undefined
  const spec: ChildSpec = {
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
  }
  const child = new SupervisedChild(spec, { runDirectory, logger: pino({ level: 'silent' }) })
  t.after(async () => {
    await child.stop(AbortSignal.abort())
    rmSync(runDirectory, { recursive: true })
  })
  return { child, spec, lines, runDirectory }
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

test('a restart ends it in order and starts it at once, without a back-off', async (t) => {
  const { child, runDirectory } = shell(t, 'trap "echo bye; exit 0" TERM; echo ready; while :; do sleep 0.02; done')
  await child.start()
  const before = readRecord(runDirectory, 'test')
  await child.restart()
  assert.equal(child.state.status, 'running')
  const after = readRecord(runDirectory, 'test')
  assert.ok(before && after && !isAlive(before) && isAlive(after))
  assert.equal(child.restarts, 1)
  await Promise.all([child.restart(), child.restart()])
  assert.equal(child.state.status, 'running')
})

test('a restart that does not start is told, and one that backs off is started at once', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'beyond-may-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const { child } = shell(t, `test -e ${folder}/may && { echo no luck; exit 3; }; echo ready; exec sleep 600`, { isHopeless: () => true })
  await child.start()
  writeFileSync(join(folder, 'may'), '')
  await assert.rejects(child.restart(), (error) => error instanceof BeyondError && /exit code 3: no luck/.test(error.message))
  assert.equal(child.state.status, 'backing-off')
  rmSync(join(folder, 'may'))
  await child.restart()
  assert.equal(child.state.status, 'running')
  await child.stop(never)
  await assert.rejects(child.restart(), (error) => error instanceof BeyondError && error.code === 'SHUTDOWN')
})

/** Adoption as after a kill -9 of the supervisor: the first one lets go, the second one finds a record and a pipe. */
test('one that outlived its supervisor is adopted: told to reload, heard, and its end is seen', async (t) => {
  const script = 'trap "echo reloaded" HUP; trap "echo bye; exit 0" TERM; echo ready; while :; do sleep 0.02; done'
  const first = shell(t, script)
  await first.child.start()
  first.child.release()
  const survivor = readRecord(first.runDirectory, 'test')
  assert.ok(survivor)
  const lines: string[] = []
  const second = new SupervisedChild(
    { ...first.spec, takeLine: (line) => lines.push(line) > 0, ready: () => Promise.resolve(), reloadSignal: 'SIGHUP' },
    { runDirectory: first.runDirectory, logger: pino({ level: 'silent' }), survivor },
  )
  t.after(() => second.stop(AbortSignal.abort()))
  await second.start()
  assert.equal(readRecord(first.runDirectory, 'test')?.pid, survivor.pid)
  await until(() => lines.includes('reloaded'))
  process.kill(survivor.pid, 'SIGKILL')
  await until(() => second.restarts === 1 && second.state.status === 'running')
  assert.notEqual(readRecord(first.runDirectory, 'test')?.pid, survivor.pid)
  const pid = readRecord(first.runDirectory, 'test')?.pid
  await until(() => lines.filter((line) => line === 'ready').length === 1)
  await second.stop(never)
  assert.ok(lines.includes('bye'))
  assert.ok(pid !== undefined && !existsSync(`/proc/${pid}/exe`))
})

test('what nobody read while there was no supervisor is heard by the next one', async (t) => {
  const first = shell(t, 'echo ready; read -r _ < "$GO"; echo said to nobody; echo "$$" > "$GO.done"; exec sleep 600', {})
  const go = join(first.runDirectory, 'go')
  spawnSync('mkfifo', [go])
  const spec = { ...first.spec, environment: { ...first.spec.environment, GO: go } }
  const child = new SupervisedChild(spec, { runDirectory: first.runDirectory, logger: pino({ level: 'silent' }) })
  await child.start()
  child.release()
  writeFileSync(go, '\n')
  await until(() => existsSync(`${go}.done`))
  const lines: string[] = []
  const survivor = readRecord(first.runDirectory, 'test')
  const second = new SupervisedChild(
    { ...spec, takeLine: (line) => lines.push(line) > 0, ready: () => Promise.resolve() },
    { runDirectory: first.runDirectory, logger: pino({ level: 'silent' }), survivor },
  )
  t.after(() => second.stop(AbortSignal.abort()))
  await second.start()
  await until(() => lines.includes('said to nobody'))
})

test('one that runs with other settings is ended in order and started with the right ones', async (t) => {
  const first = shell(t, 'trap "exit 0" TERM; echo ready; while :; do sleep 0.02; done')
  await first.child.start()
  first.child.release()
  const survivor = readRecord(first.runDirectory, 'test')
  assert.ok(survivor)
  const second = new SupervisedChild({ ...first.spec, settings: 'another port' }, { runDirectory: first.runDirectory, logger: pino({ level: 'silent' }), survivor })
  t.after(() => second.stop(AbortSignal.abort()))
  await second.start()
  assert.equal(isAlive(survivor), false)
  assert.notEqual(readRecord(first.runDirectory, 'test')?.pid, survivor.pid)
})

test('a supervisor that is stopped before it starts anything ends what it was to adopt', async (t) => {
  const first = shell(t, 'echo ready; exec sleep 600')
  await first.child.start()
  first.child.release()
  const survivor = readRecord(first.runDirectory, 'test')
  assert.ok(survivor)
  const second = new SupervisedChild(first.spec, { runDirectory: first.runDirectory, logger: pino({ level: 'silent' }), survivor })
  await second.stop(never)
  assert.equal(isAlive(survivor), false)
})

test('a child that floods its pipe while nobody reads is not held up', async (t) => {
  const first = shell(t, 'echo ready; read -r _ < "$GO"; seq 1 200000 2>/dev/null; echo done > "$GO.done"; exec sleep 600')
  const go = join(first.runDirectory, 'go')
  spawnSync('mkfifo', [go])
  const spec = { ...first.spec, environment: { ...first.spec.environment, GO: go } }
  const child = new SupervisedChild(spec, { runDirectory: first.runDirectory, logger: pino({ level: 'silent' }) })
  await child.start()
  child.release()
  writeFileSync(go, '\n')
  await until(() => existsSync(`${go}.done`), 10_000)
  process.kill(readRecord(first.runDirectory, 'test')?.pid ?? 0, 'SIGKILL')
})

test('one that does not answer three times in a row is ended and started again', async (t) => {
  let answers = true
  const { child, runDirectory } = shell(t, 'echo ready; exec sleep 600', {
    liveness: { ask: () => (answers ? Promise.resolve() : Promise.reject(new Error('no answer'))), everyMs: 10, otherwise: 'restart' },
  })
  await child.start()
  const pid = readRecord(runDirectory, 'test')?.pid
  await sleep(100)
  assert.equal(readRecord(runDirectory, 'test')?.pid, pid)
  answers = false
  await until(() => child.restarts === 1)
  answers = true
  await until(() => child.state.status === 'running')
  assert.notEqual(readRecord(runDirectory, 'test')?.pid, pid)
})

test('one that must not be killed for being busy is only told about', async (t) => {
  let asked = 0
  const ask = (): Promise<void> => {
    asked++
    return Promise.reject(new Error('busy'))
  }
  const { child } = shell(t, 'echo ready; exec sleep 600', { liveness: { ask, everyMs: 5, otherwise: 'warn' } })
  await child.start()
  await until(() => asked > 10)
  assert.equal(child.restarts, 0)
  assert.equal(child.state.status, 'running')
})

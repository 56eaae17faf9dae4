/**
 * A boot that kills itself, as SIGKILL from outside would: before, between or after a step, or before or after the nth call that
 * changes anything. Run by the kill test:  node boot-victim.ts CONFIG.json
 */
import childProcess from 'node:child_process'
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'

export type Victim = {
  readonly settings: Record<string, string>
  /** Dies at this moment of this step. */
  readonly step?: { readonly name: string; readonly moment: 'before' | 'planned' | 'done' }
  /** Dies right after this call, counted from 1; calls are those that change the disk or start a process. */
  readonly call?: number
  /** Dies when it is ready. */
  readonly ready?: true
}

const victim = JSON.parse(fs.readFileSync(process.argv[2], 'utf8')) as Victim
const CHANGING = ['mkdirSync', 'openSync', 'writeSync', 'fsyncSync', 'closeSync', 'renameSync', 'rmSync', 'chmodSync', 'fchmodSync', 'chownSync', 'fchownSync', 'lchownSync', 'symlinkSync', 'writeFileSync'] as const
let calls = 0
let last = ''

function die(): never {
  process.kill(process.pid, 'SIGKILL')
  for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0) // the signal is on its way
}

/** Counts a call of ours; the path tells readers from writers, and our folders from those of the runtime. */
function counted<Args extends unknown[], Result>(name: string, call: (...args: Args) => Result): (...args: Args) => Result {
  return (...args) => {
    const result = call(...args)
    if (name === 'openSync' && (args[1] === undefined || args[1] === 'r')) return result
    last = `${name} ${String(args[0])}`
    if (++calls === victim.call) die()
    return result
  }
}

const mutable = fs as unknown as Record<string, (...args: unknown[]) => unknown>
for (const name of CHANGING) mutable[name] = counted(name, mutable[name].bind(fs))
const { spawn } = childProcess
;(childProcess as { spawn: unknown }).spawn = counted('spawn', spawn as (...args: unknown[]) => unknown)
syncBuiltinESMExports()

const { runBox } = await import('../../src/manage/box.ts')
const { parseBoxConfig } = await import('../../src/manage/box-config.ts')
const { fromEnvironment } = await import('../../src/manage/settings-source.ts')
const { openBoxLog } = await import('../../src/manage/box-log.ts')
const config = parseBoxConfig({}, fromEnvironment(victim.settings), '/')
const never = new AbortController().signal
await runBox(config, {
  openLog: (layout) => openBoxLog({ json: true, terminal: process.stderr, directory: layout.log }),
  stop: never,
  hurry: never,
  handOver: never,
  environment: process.env,
  onStep: (name, moment) => {
    if (victim.step?.name === name && victim.step.moment === moment) die()
  },
  onReady: () => {
    process.stdout.write(`${JSON.stringify({ ready: true, calls, last })}\n`)
    if (victim.ready) die()
  },
})

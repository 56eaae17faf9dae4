/**
 * One process that we started: its own process group (the terminal's Ctrl-C is not for it), its output by the line,
 * its end as a value, and a record on disk by which the next start recognises it if we are killed.
 * With an output of its own it can live on without us; without one its output ends with us.
 */
import { spawn, type ChildProcess as NodeChild } from 'node:child_process'
import { renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Account } from './account.ts'
import { readIfThere } from './atomic-file.ts'
import type { ChildOutput } from './child-output.ts'
import { LineSplitter } from './log-line.ts'
import { identify, type ProcessIdentity } from './process-identity.ts'
import type { Exit, RunningProcess } from './running-process.ts'

export type Command = {
  /** Names the record in the run directory. */
  readonly name: string
  readonly program: string
  readonly args: readonly string[]
  readonly environment: Readonly<Record<string, string>>
  /** Undefined: runs as ourselves. */
  readonly account: Account | undefined
}

type Listener = { readonly onLine: (line: string) => void }
type Survival = { readonly output: ChildOutput; readonly fingerprint: string }

/** A process as it is recorded. */
export type ProcessRecord = ProcessIdentity & {
  /** Of the settings that it was started with. */
  readonly fingerprint?: string
  /** It takes no new work and ends when its last client has gone. */
  readonly leaving?: boolean
}

const LAST_LINES = 20
/** Output may be held open by orphans of the child; its own last words are in the pipe by then. */
const OUTPUT_GRACE_MS = 200

export class ChildProcess implements RunningProcess {
  readonly adopted = false
  readonly exited: Promise<Exit>
  readonly #child: NodeChild
  readonly #output: ChildOutput | undefined
  readonly #lastLines: string[] = []

  constructor(command: Command, runDirectory: string, hears: Listener | Survival) {
    const { account } = command
    const survival = 'output' in hears ? hears : undefined
    this.#output = survival?.output
    const pipe = this.#output?.openForChild() ?? 'pipe'
    try {
      this.#child = spawn(command.program, command.args, {
        cwd: '/', // our own may be one that the account can't enter
        env: command.environment,
        detached: true,
        stdio: ['ignore', pipe, pipe],
        ...(account?.separate ? { uid: account.uid, gid: account.gid } : {}),
      })
    } finally {
      if (typeof pipe === 'number') this.#output?.handedOver(pipe)
    }
    if (this.#child.pid !== undefined) writeRecord(runDirectory, command.name, this.#child.pid, survival && { fingerprint: survival.fingerprint })
    if ('onLine' in hears) for (const stream of ['stdout', 'stderr'] as const) this.#hear(stream, hears.onLine)
    this.exited = this.#awaitExit().finally(() => removeRecord(runDirectory, command.name))
  }

  get pid(): number | undefined {
    return this.#child.pid
  }

  get lastLines(): readonly string[] {
    return this.#output?.lastLines ?? this.#lastLines
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  killGroup(): void {
    if (this.#child.pid === undefined || this.#child.exitCode !== null || this.#child.signalCode !== null) return
    try {
      process.kill(-this.#child.pid, 'SIGKILL')
    } catch {
      this.#child.kill('SIGKILL') // not a group leader yet, in the moment after its start
    }
  }

  #hear(stream: 'stdout' | 'stderr', onLine: (line: string) => void): void {
    const lines = new LineSplitter((line) => {
      this.#lastLines.push(line)
      if (this.#lastLines.length > LAST_LINES) this.#lastLines.shift()
      onLine(line)
    })
    this.#child[stream]?.setEncoding('utf8')
    this.#child[stream]?.on('data', (text: string) => lines.push(text))
    this.#child[stream]?.on('end', () => lines.end())
  }

  #awaitExit(): Promise<Exit> {
    return new Promise((resolve) => {
      const closed = new Promise<void>((done) => this.#child.once('close', () => done()))
      this.#child.once('error', (failure) => resolve({ code: undefined, signal: undefined, failure }))
      this.#child.once('exit', (code, signal) => {
        const exit = { code: code ?? undefined, signal: signal ?? undefined }
        this.#output?.drain()
        void Promise.race([closed, sleep(OUTPUT_GRACE_MS)]).then(() => resolve(exit))
      })
    })
  }
}

/** `exit code 1`, `signal SIGKILL`. */
export function describeExit({ code, signal, failure }: Exit): string {
  if (failure) return failure.message
  if (signal !== undefined) return `signal ${signal}`
  return code === undefined ? 'a status that only its parent learned' : `exit code ${code}`
}

/** The process that was recorded under this name; it may be gone. */
export function readRecord(runDirectory: string, name: string): ProcessRecord | undefined {
  try {
    const record = JSON.parse(readIfThere(recordFile(runDirectory, name)) ?? 'null') as ProcessRecord | null
    return record ?? undefined
  } catch {
    return undefined // torn by a power loss: after that nothing of it runs
  }
}

export function writeRecord(runDirectory: string, name: string, pid: number, more: Pick<ProcessRecord, 'fingerprint' | 'leaving'> = {}): void {
  const path = recordFile(runDirectory, name)
  const identity = identify(pid)
  writeFileSync(`${path}.new`, JSON.stringify(identity ? { ...identity, ...more } : null), { mode: 0o600 })
  renameSync(`${path}.new`, path)
}

export function removeRecord(runDirectory: string, name: string): void {
  rmSync(recordFile(runDirectory, name), { force: true })
}

const recordFile = (runDirectory: string, name: string): string => join(runDirectory, `${name}.json`)

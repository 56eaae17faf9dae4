/**
 * One process that we started: its own process group (the terminal's Ctrl-C is not for it), its output by the line,
 * its end as a value, and a record on disk by which the next start recognises it if we are killed.
 */
import { spawn, type ChildProcess as NodeChild } from 'node:child_process'
import { renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Account } from './account.ts'
import { readIfThere } from './atomic-file.ts'
import { LineSplitter } from './log-line.ts'
import { identify, type ProcessIdentity } from './process-identity.ts'

export type Command = {
  /** Names the record in the run directory. */
  readonly name: string
  readonly program: string
  readonly args: readonly string[]
  readonly environment: Readonly<Record<string, string>>
  /** Undefined: runs as ourselves. */
  readonly account: Account | undefined
  readonly onLine: (line: string, stream: 'stdout' | 'stderr') => void
}

export type Exit = { readonly code: number | undefined; readonly signal: string | undefined; readonly failure?: Error }

const LAST_LINES = 20
/** Output may be held open by orphans of the child; its own last words are in the pipe by then. */
const OUTPUT_GRACE_MS = 200

export class ChildProcess {
  readonly exited: Promise<Exit>
  readonly #child: NodeChild
  readonly #lastLines: string[] = []

  constructor(command: Command, runDirectory: string) {
    const { account } = command
    this.#child = spawn(command.program, command.args, {
      cwd: '/', // our own may be one that the account can't enter
      env: command.environment,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      ...(account?.separate ? { uid: account.uid, gid: account.gid } : {}),
    })
    if (this.#child.pid !== undefined) writeRecord(runDirectory, command.name, this.#child.pid)
    const hear = (stream: 'stdout' | 'stderr') => {
      const lines = new LineSplitter((line) => {
        this.#lastLines.push(line)
        if (this.#lastLines.length > LAST_LINES) this.#lastLines.shift()
        command.onLine(line, stream)
      })
      this.#child[stream]?.setEncoding('utf8')
      this.#child[stream]?.on('data', (text: string) => lines.push(text))
      this.#child[stream]?.on('end', () => lines.end())
    }
    hear('stdout')
    hear('stderr')
    this.exited = this.#awaitExit().finally(() => removeRecord(runDirectory, command.name))
  }

  get pid(): number | undefined {
    return this.#child.pid
  }

  /** What it printed last, at most twenty lines. */
  get lastLines(): readonly string[] {
    return this.#lastLines
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  /** Ends it and all of its process group at once. */
  killGroup(): void {
    if (this.#child.pid === undefined || this.#child.exitCode !== null || this.#child.signalCode !== null) return
    try {
      process.kill(-this.#child.pid, 'SIGKILL')
    } catch {
      this.#child.kill('SIGKILL') // not a group leader yet, in the moment after its start
    }
  }

  #awaitExit(): Promise<Exit> {
    return new Promise((resolve) => {
      const closed = new Promise<void>((done) => this.#child.once('close', () => done()))
      this.#child.once('error', (failure) => resolve({ code: undefined, signal: undefined, failure }))
      this.#child.once('exit', (code, signal) => {
        const exit = { code: code ?? undefined, signal: signal ?? undefined }
        void Promise.race([closed, sleep(OUTPUT_GRACE_MS)]).then(() => resolve(exit))
      })
    })
  }
}

/** `exit code 1`, `signal SIGKILL`. */
export function describeExit({ code, signal, failure }: Exit): string {
  if (failure) return failure.message
  return signal === undefined ? `exit code ${code}` : `signal ${signal}`
}

/** The process that was recorded under this name, if it was one of this boot. */
export function readRecord(runDirectory: string, name: string): ProcessIdentity | undefined {
  try {
    const record = JSON.parse(readIfThere(recordFile(runDirectory, name)) ?? 'null') as ProcessIdentity | null
    return record ?? undefined
  } catch {
    return undefined // torn by a power loss: after that nothing of it runs
  }
}

export function writeRecord(runDirectory: string, name: string, pid: number): void {
  const path = recordFile(runDirectory, name)
  writeFileSync(`${path}.new`, JSON.stringify(identify(pid) ?? null), { mode: 0o600 })
  renameSync(`${path}.new`, path)
}

export function removeRecord(runDirectory: string, name: string): void {
  rmSync(recordFile(runDirectory, name), { force: true })
}

const recordFile = (runDirectory: string, name: string): string => join(runDirectory, `${name}.json`)

/** Runs one program to its end: its output by the line, a bound on its time, and nothing of its process group left when it is cut off. */
import { spawn } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Account } from './account.ts'
import { LineSplitter } from './log-line.ts'

export type Once = {
  readonly program: string
  readonly args: readonly string[]
  readonly environment: Readonly<Record<string, string>>
  /** Undefined: runs as ourselves. */
  readonly account?: Account | undefined
  readonly onLine?: (line: string) => void
  /** Ends it and all that it started. */
  readonly signal: AbortSignal
  readonly withinMs?: number
}

export type Outcome = {
  readonly code: number | undefined
  /** Why it could not be started, or was ended by us. */
  readonly failure: string | undefined
  /** At most twenty. */
  readonly lastLines: readonly string[]
}

const LAST_LINES = 20
/** What it started may hold its output open; its own last words are in the pipe by then. */
const OUTPUT_GRACE_MS = 200

export async function runOnce({ program, args, environment, account, onLine, signal, withinMs }: Once): Promise<Outcome> {
  signal.throwIfAborted()
  const lastLines: string[] = []
  const lines = new LineSplitter((line) => {
    lastLines.push(line)
    if (lastLines.length > LAST_LINES) lastLines.shift()
    onLine?.(line)
  })
  const child = spawn(program, args, {
    cwd: '/',
    env: environment,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(account?.separate ? { uid: account.uid, gid: account.gid } : {}),
  })
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => lines.push(text))
  const closed = new Promise<void>((resolve) => child.once('close', () => resolve()))
  const ended = new Promise<{ code: number | undefined; failure: string | undefined }>((resolve) => {
    child.once('error', (error) => resolve({ code: undefined, failure: error.message }))
    child.once('exit', (code, name) => resolve({ code: code ?? undefined, failure: name === null ? undefined : `signal ${name}` }))
  })
  const patience = withinMs === undefined ? undefined : AbortSignal.timeout(withinMs)
  const cutOff = patience ? AbortSignal.any([signal, patience]) : signal
  const cut = (): void => killGroup(child.pid)
  cutOff.addEventListener('abort', cut)
  const { code, failure } = await ended
  cutOff.removeEventListener('abort', cut)
  await Promise.race([closed, sleep(OUTPUT_GRACE_MS, undefined, { ref: false })])
  for (const stream of [child.stdout, child.stderr]) stream.destroy()
  lines.end()
  signal.throwIfAborted()
  return { code, failure: patience?.aborted ? `it took longer than ${withinMs} ms` : failure, lastLines }
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // gone already
  }
}

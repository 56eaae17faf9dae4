/**
 * pg_receivewal as a child process: its command line, its output, and its end. It writes what the primary streams into a
 * directory, fsyncs it and confirms it; a commit that waits for us waits for this process.
 * Source: https://www.postgresql.org/docs/18/app-pgreceivewal.html
 *
 * Never `-Z`: a compressed partial file is overwritten from its first byte at a restart. Never without `-n`: its own loop
 * sleeps five seconds while commits hang. `-s 1`: when what it has read ends exactly with a segment it confirms at the next
 * interval only.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { BeyondError } from '../errors.ts'

export type ReceiverOptions = {
  /** Folder of pg_receivewal, whose version must not be older than the server's. */
  readonly bindir: string
  /** Resolved: by it a receiver that outlived us is found. */
  readonly directory: string
  readonly slot: string
  /** Keywords of libpq. The password goes through the environment, where other accounts don't see it. */
  readonly conninfo: Readonly<Record<string, string>>
  readonly onLine: (line: string) => void
}

export type ReceiverExit = { readonly code: number | null; readonly signal: NodeJS.Signals | null; readonly lastLine: string }

export interface Receiver extends AsyncDisposable {
  readonly pid: number
  /** Settles when the process is gone. Rejects with PROGRAM_MISSING when it could not be run. */
  readonly exited: Promise<ReceiverExit>
  /** SIGTERM, then SIGKILL; settles when it is gone, after which nothing is confirmed any more. */
  stop(): Promise<void>
}

/** It hears SIGTERM between two reads only, and not at all while it connects. Killing it loses nothing. */
const TERM_MS = 1_000

/** A dead primary is noticed within some 15 seconds instead of as many minutes. Seconds, and milliseconds for the last. */
const TIMEOUTS = { connect_timeout: '5', keepalives_idle: '5', keepalives_interval: '3', keepalives_count: '3', tcp_user_timeout: '15000' }

export function startReceiver({ bindir, directory, slot, conninfo, onLine }: ReceiverOptions): Receiver {
  const { password, ...shown } = conninfo
  const text = formatConninfo({ ...TIMEOUTS, ...shown })
  const args = ['-D', directory, '-S', slot, '--synchronous', '-n', '-s', '1', '-v', '-d', text]
  const child = spawn(join(bindir, 'pg_receivewal'), args, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { PATH: process.env['PATH'], LC_ALL: 'C', ...(password === undefined ? {} : { PGPASSWORD: password }) },
  })
  let lastLine = ''
  createInterface({ input: child.stderr }).on('line', (line) => {
    lastLine = line
    onLine(line)
  })
  const exited = new Promise<ReceiverExit>((resolve, reject) => {
    child.once('error', (cause) =>
      reject(new BeyondError('PROGRAM_MISSING', `Can't run pg_receivewal in ${bindir}: ${cause.message}`, { cause, facts: { bindir } })),
    )
    child.once('close', (code, signal) => resolve({ code, signal, lastLine }))
  })
  exited.catch(() => {})
  const stop = async () => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
    const gone = once(child, 'exit')
    child.kill('SIGTERM')
    const kill = setTimeout(() => child.kill('SIGKILL'), TERM_MS)
    await gone
    clearTimeout(kill)
  }
  return { pid: child.pid ?? 0, exited, stop, [Symbol.asyncDispose]: stop }
}

/** `key=value` pairs; every value is quoted, so that none can end early. */
export function formatConninfo(conninfo: Readonly<Record<string, string>>): string {
  return Object.entries(conninfo)
    .map(([key, value]) => `${key}='${value.replaceAll(/['\\]/g, '\\$&')}'`)
    .join(' ')
}

/**
 * Kills receivers that write to `directory`, left by a sink that was killed, and waits until they are gone. Answers how
 * many. Two of them would write into the same files; and one that nobody knows of would go on confirming after a seal.
 */
export async function killStrayReceivers(directory: string): Promise<number> {
  const strays: number[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue
    // Those of other accounts, and those that end while we look, are none of ours.
    const args = await readFile(`/proc/${name}/cmdline`, 'latin1').then((text) => text.split('\0'), () => [])
    if (!args.some((arg, i) => arg === '-D' && args[i + 1] === directory)) continue
    const program = await readlink(`/proc/${name}/exe`).catch(() => '')
    if (/\/pg_receivewal( \(deleted\))?$/.test(program) || args.some((arg) => arg.endsWith('/pg_receivewal'))) strays.push(Number(name))
  }
  for (const pid of strays)
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // It ended by itself.
    }
  while ((await Promise.all(strays.map(isRunning))).includes(true)) await sleep(10)
  return strays.length
}

async function isRunning(pid: number): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => '')
  return stat !== '' && !/\) [ZX] /.test(stat)
}

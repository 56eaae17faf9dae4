/**
 * Where the events of a box go: all of them as JSON lines into a file of bounded size; what a person wants to know to the terminal,
 * or everything as JSON when asked for.
 */
import { closeSync, fstatSync, openSync, renameSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import pino, { type Logger } from 'pino'

const FILE_BYTES = 16 * 1024 * 1024
const WARN = 40

type Output = { readonly write: (text: string) => unknown }

export type BoxLog = Logger & Disposable

/** `terminal`: standard error of the process. `directory`: where the file lies; undefined for none. */
export function openBoxLog(options: { json: boolean; terminal: Output; directory: string }): BoxLog {
  const file = new LogFile(join(options.directory, 'beyond-pg.log'))
  const destination = {
    write: (line: string) => {
      file.write(line)
      const text = options.json ? line : readable(line)
      if (text !== '') options.terminal.write(text)
    },
  }
  const logger = pino({ base: { component: 'box' }, level: 'info', serializers: { err: pino.stdSerializers.err } }, destination)
  return Object.assign(logger, { [Symbol.dispose]: () => file.close() })
}

/** All that the box itself says; of its children only that they are ready and what needs attention. */
export function readable(line: string): string {
  const { level, time, msg, err, missing, child, childPid, path, lastLine, step, reason } = JSON.parse(line) as Record<string, unknown> & {
    level: number
    time: number
    err?: { message?: string }
  }
  const isChatter = child !== undefined && level < WARN && msg !== 'ready'
  if (isChatter || (step !== undefined && level < WARN)) return ''
  const clock = new Date(time).toTimeString().slice(0, 8)
  const mark = level > WARN ? 'ERROR ' : level === WARN ? 'warning: ' : ''
  const more = [
    err?.message ? `: ${err.message}` : '',
    Array.isArray(missing) ? `: ${missing.join(', ')}` : '',
    typeof lastLine === 'string' ? `: ${lastLine}` : '',
    typeof reason === 'string' ? `: ${reason}` : '',
    typeof path === 'string' ? ` (${path})` : '',
    level >= WARN && childPid !== undefined ? ` (process ${String(childPid)})` : '',
  ]
  return `${clock} ${String(child ?? 'box').padEnd(9)} ${mark}${String(msg)}${more.join('')}\n`
}

/** Appends; at its bound the file becomes FILE.1 and a new one begins. */
class LogFile {
  readonly #path: string
  #fd: number
  #bytes: number

  constructor(path: string) {
    this.#path = path
    this.#fd = openSync(path, 'a', 0o600)
    this.#bytes = fstatSync(this.#fd).size
  }

  write(line: string): void {
    try {
      this.#bytes += writeSync(this.#fd, line)
      if (this.#bytes >= FILE_BYTES) this.#rotate()
    } catch {
      // A full disk must not take the supervisor down; the terminal still has the line.
    }
  }

  close(): void {
    closeSync(this.#fd)
  }

  #rotate(): void {
    closeSync(this.#fd)
    renameSync(this.#path, `${this.#path}.1`)
    this.#fd = openSync(this.#path, 'a', 0o600)
    this.#bytes = 0
  }
}

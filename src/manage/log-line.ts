/** What a child printed, line by line, with its level. Pure. */
export type Level = 'debug' | 'info' | 'warn' | 'error'
export type LogLine = { readonly level: Level; readonly text: string; readonly fields?: Readonly<Record<string, unknown>> }

// `2026-01-01 00:00:00.000 UTC [123] 57P01 FATAL:  terminating connection`; the SQLSTATE is missing before the config is read.
const POSTGRES = /^(?:\d{4}-\d\d-\d\d [\d:.]+ \S+ \[(\d+)\] (?:([0-9A-Z]{5}) )?)?(?:\S+: )??([A-Z]+[1-5]?): {1,2}(.*)$/
const POSTGRES_LEVELS: Readonly<Record<string, Level>> = { WARNING: 'warn', ERROR: 'warn', FATAL: 'error', PANIC: 'error' }

/** Class 57 is operator intervention (shutdown, start-up), 28 a failed login: nothing is wrong with the server. */
export function postgresLine(line: string): LogLine {
  const match = POSTGRES.exec(line)
  if (!match) return { level: 'info', text: line }
  const [, pid, sqlState, severity, text] = match
  const level = sqlState?.startsWith('57') ? 'info' : sqlState?.startsWith('28') ? 'warn' : (POSTGRES_LEVELS[severity] ?? 'info')
  const fields = { ...(pid === undefined ? {} : { childPid: Number(pid) }), ...(sqlState && sqlState !== '00000' ? { sqlState } : {}) }
  return { level, text: ['LOG', 'FATAL', 'ERROR', 'WARNING', 'PANIC'].includes(severity) ? text : `${severity}: ${text}`, fields }
}

// `2026-01-01 00:00:00.000 UTC [123] WARNING message`
const PGBOUNCER = /^\d{4}-\d\d-\d\d [\d:.]+ \S+ \[\d+\] ([A-Z]+) (.*)$/
const PGBOUNCER_LEVELS: Readonly<Record<string, Level>> = { WARNING: 'warn', ERROR: 'error', FATAL: 'error', DEBUG: 'debug', NOISE: 'debug' }

export function pgbouncerLine(line: string): LogLine {
  const match = PGBOUNCER.exec(line)
  if (!match) return { level: 'info', text: line }
  return { level: PGBOUNCER_LEVELS[match[1]] ?? 'info', text: match[2] }
}

/** One JSON object per line, as our own programs log; anything else is a cry for help, such as the trace of a crash. */
export function ownLine(line: string): LogLine {
  if (line.startsWith('{')) {
    try {
      const { level, msg, time: _time, pid: _pid, hostname: _hostname, component: _component, ...fields } = JSON.parse(line) as Record<string, unknown>
      return { level: levelOf(level), text: String(msg ?? ''), fields }
    } catch {
      // not JSON after all
    }
  }
  return { level: 'warn', text: line }
}

function levelOf(number: unknown): Level {
  if (typeof number !== 'number') return 'info'
  if (number >= 50) return 'error'
  if (number >= 40) return 'warn'
  return number >= 30 ? 'info' : 'debug'
}

/** Whether a program's words mean that the disk, or the quota, is full. Postgres tells a short write in words of its own. */
export function tellsDiskFull(lines: readonly string[]): boolean {
  return lines.some((line) => /No space left on device|Disk quota exceeded|Check free disk space|wrote only \d+ of \d+ bytes/.test(line))
}

/** Cuts a stream of text into lines; a line without an end is handed out in pieces, so memory stays bounded. */
export class LineSplitter {
  readonly #emit: (line: string) => void
  readonly #longest: number
  #rest = ''

  constructor(emit: (line: string) => void, longest = 65_536) {
    this.#emit = emit
    this.#longest = longest
  }

  push(text: string): void {
    const lines = (this.#rest + text).split('\n')
    this.#rest = lines.pop() ?? ''
    for (const line of lines) this.#emitPieces(line)
    while (this.#rest.length > this.#longest) {
      this.#emit(this.#rest.slice(0, this.#longest))
      this.#rest = this.#rest.slice(this.#longest)
    }
  }

  end(): void {
    if (this.#rest !== '') this.#emit(this.#rest)
    this.#rest = ''
  }

  #emitPieces(line: string): void {
    for (let at = 0; at < line.length; at += this.#longest) this.#emit(line.slice(at, at + this.#longest))
  }
}

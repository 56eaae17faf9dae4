/** The logger that every part takes as an argument. Events with fields; never a secret among them. */
import pino from 'pino'

export type Logger = pino.Logger

const LEVEL_NAMES: Record<number, string> = { 10: 'trace', 20: 'debug', 30: 'info', 40: 'warn', 50: 'error', 60: 'fatal' }
const HIDDEN = new Set(['level', 'time', 'pid', 'hostname', 'name', 'component', 'msg', 'err'])

/** One readable line per event, for people; machines take `--json`. */
function readable(line: string): string {
  const event = JSON.parse(line) as Record<string, unknown> & { level: number; time: number; msg?: string; component?: string }
  const time = new Date(event.time).toISOString().slice(11, 23)
  const fields = Object.entries(event)
    .filter(([key]) => !HIDDEN.has(key))
    .map(([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
  const error = event['err'] as { code?: string; message?: string } | undefined
  const cause = error ? ` [${error.code ?? 'INTERNAL'}] ${error.message ?? ''}` : ''
  const level = LEVEL_NAMES[event.level] ?? String(event.level)
  return `${time} ${level.padEnd(5)} ${event.component ?? ''}: ${event.msg ?? ''}${cause}${fields.length > 0 ? `  ${fields.join(' ')}` : ''}\n`
}

/** Logs go to standard error: readable lines by default, one JSON object per line when `json` is set. */
export function createLogger(options: { component: string; json: boolean; level?: string }): Logger {
  const destination = {
    write: (line: string) => {
      process.stderr.write(options.json ? line : readable(line))
    },
  }
  return pino(
    {
      base: { component: options.component },
      level: options.level ?? 'info',
      serializers: { err: pino.stdSerializers.err },
    },
    destination,
  )
}

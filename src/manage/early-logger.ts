/** A logger for the time before the log can be opened: keeps what is said, a little of it, and hands it on in order. */
import pino, { type Logger } from 'pino'

type Said = { readonly level: string; readonly fields: object; readonly text: string }

export class EarlyLogger {
  readonly #said: Said[] = []
  readonly logger: Logger = pino(
    { base: null, timestamp: false, formatters: { level: (level) => ({ level }) } },
    {
      write: (line: string) => {
        const { level, msg, ...fields } = JSON.parse(line) as { level: string; msg?: string }
        this.#said.push({ level, fields, text: msg ?? '' })
      },
    },
  )

  /** Says it all to the logger, and returns that. */
  handTo(logger: Logger): Logger {
    for (const { level, fields, text } of this.#said.splice(0)) logger[level as 'info' | 'warn' | 'error'](fields, text)
    return logger
  }
}

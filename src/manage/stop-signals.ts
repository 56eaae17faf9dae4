/** Ctrl-C and its relatives as AbortSignals: the first asks for an orderly stop, a second one cuts it short. */

/** npm and shells pass a Ctrl-C on that the terminal has sent us as well; such echoes are no second Ctrl-C. */
const ECHO_MS = 500

type SignalSource = { on(signal: NodeJS.Signals, listener: () => void): unknown }

export type StopSignals = {
  readonly stop: AbortSignal
  readonly hurry: AbortSignal
  /** Asks for the orderly stop from within. */
  readonly requestStop: () => void
}

export function stopSignals(source: SignalSource, now: () => number = Date.now): StopSignals {
  const stop = new AbortController()
  const hurry = new AbortController()
  let firstAt: number | undefined
  const onSignal = () => {
    if (firstAt === undefined) {
      firstAt = now()
      stop.abort()
    } else if (now() - firstAt >= ECHO_MS) hurry.abort()
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) source.on(signal, onSignal)
  return { stop: stop.signal, hurry: hurry.signal, requestStop: () => stop.abort() }
}

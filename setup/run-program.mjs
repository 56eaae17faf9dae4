// Runs the real program in the foreground and stands in for it: same terminal, same signals, same end.

import { spawn } from 'node:child_process'

/** @type {readonly NodeJS.Signals[]} */
const signals = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR2']

/** How long a signal's arrival at the rest of our process group may take to show, in milliseconds. */
const settle = 150
/** npm passes on what it receives, also when we received it from the terminal: for so long, in milliseconds, it is the same signal. */
const same = 1000

/**
 * Starts the program and ends this process as the program ended.
 *
 * Ctrl-C reaches every process of the terminal's foreground group, so the program has it already; `kill` and a
 * supervisor reach only us, and npm reaches us a second time. A witness in our group, which dies of any signal, tells
 * these apart: what the witness received, the program received too, and only the rest is passed on.
 *
 * @param {string} command
 * @param {readonly string[]} args
 * @param {NodeJS.ProcessEnv} env
 * @param {(error: Error) => void} onError the program could not be started
 */
export function runProgram(command, args, env, onError) {
  /** @type {Map<string, number>} */
  const seenByGroup = new Map()
  /** @type {import('node:child_process').ChildProcess | undefined} */
  let witness
  let ended = false

  // Before anything is started, lest a signal end us and not what we started.
  for (const signal of signals) {
    process.on(signal, () => {
      setTimeout(() => {
        const seen = seenByGroup.get(signal) ?? -Infinity
        if (!ended && performance.now() - seen > same) child.kill(signal)
      }, settle)
    })
  }

  const child = spawn(command, args, { stdio: 'inherit', env })

  const watch = () => {
    // Ends by itself, with its input, when we are gone.
    witness = spawn('cat', { stdio: ['pipe', 'ignore', 'ignore'] })
    witness.on('error', () => {})
    witness.stdin?.on('error', () => {})
    witness.unref()
    witness.on('exit', (_, signal) => {
      if (signal === null || ended) return
      seenByGroup.set(signal, performance.now())
      watch()
    })
  }
  watch()

  child.on('error', (error) => {
    ended = true
    witness?.kill()
    onError(error)
  })
  child.on('exit', (code, signal) => {
    ended = true
    witness?.kill()
    if (signal === null) process.exit(code ?? 1)
    for (const each of signals) process.removeAllListeners(each)
    process.kill(process.pid, signal)
    // For a signal that we can't die of in time.
    setTimeout(() => process.exit(1), 1000)
  })
}

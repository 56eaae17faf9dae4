// Runs one command of set-up: no terminal, output kept, ended when set-up is interrupted.

import { spawn } from 'node:child_process'
import { exit, SetupFailure } from './failure.mjs'

/** Enough for any message that matters; more of a command's output is not kept. */
const keptCharacters = 1 << 20

/**
 * @typedef {object} Result
 * @property {number} code the exit code; 127 when the command does not exist, 126 when it can't be run
 * @property {string} stdout
 * @property {string} output standard output and standard error, in the order in which they came
 */

/**
 * @param {string} command
 * @param {readonly string[]} args
 * @param {{ env?: NodeJS.ProcessEnv, cwd?: string, signal?: AbortSignal | undefined, onStatus?: (line: string) => void }} [options]
 *   onStatus gets the lines that the command writes to file descriptor 3
 * @returns {Promise<Result>}
 */
export function run(command, args, { env = process.env, cwd, signal, onStatus } = {}) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(interrupted(signal))
    const child = spawn(command, args, { env, cwd, stdio: ['ignore', 'pipe', 'pipe', onStatus ? 'pipe' : 'ignore'] })
    let stdout = ''
    let output = ''
    let failed = 0
    const stop = () => child.kill('SIGTERM')
    signal?.addEventListener('abort', stop)
    child.stdout?.setEncoding('utf8').on('data', (text) => {
      stdout = (stdout + text).slice(-keptCharacters)
      output = (output + text).slice(-keptCharacters)
    })
    child.stderr?.setEncoding('utf8').on('data', (text) => {
      output = (output + text).slice(-keptCharacters)
    })
    if (onStatus) readLines(/** @type {import('node:stream').Readable} */ (child.stdio[3]), onStatus)
    child.on('error', (error) => {
      failed = /** @type {NodeJS.ErrnoException} */ (error).code === 'ENOENT' ? 127 : 126
      output += error.message
      if (child.pid === undefined) end(null)
    })
    child.on('close', end)

    /** @param {number | null} code */
    function end(code) {
      // The terminal tells the command and us at once, and the command's end may be seen first.
      setTimeout(() => {
        signal?.removeEventListener('abort', stop)
        if (signal?.aborted) reject(interrupted(signal))
        else resolve({ code: failed || (code ?? 1), stdout, output })
      }, code === 0 || signal === undefined ? 0 : 100)
    }
  })
}

/** @param {AbortSignal} signal whose reason is the name of the operating system's signal */
export function interrupted(signal) {
  return new SetupFailure('Set-up was interrupted: start it again, and it goes on from there.',
    signal.reason === 'SIGTERM' ? exit.terminated : exit.interrupted)
}

/**
 * @param {import('node:stream').Readable} stream
 * @param {(line: string) => void} onLine
 */
function readLines(stream, onLine) {
  let rest = ''
  stream.setEncoding('utf8').on('data', (text) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) onLine(line)
  })
}

// One set-up at a time: a lock file that names its holder, so that a holder's death frees it.

import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { interrupted } from './command.mjs'

/**
 * @param {string} path
 * @param {{ signal?: AbortSignal | undefined, onWait?: (pid: string) => void }} [options]
 * @returns {Promise<() => void>} what gives the lock back
 */
export async function lock(path, { signal, onWait } = {}) {
  const mine = `${process.pid} ${startTime(String(process.pid))}`
  for (let waited = false; ; ) {
    try {
      writeFileSync(path, mine, { flag: 'wx' })
      return () => rmSync(path, { force: true })
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'EEXIST') throw error
    }
    const holder = readIfThere(path)
    const [pid = '', start = ''] = holder?.split(' ') ?? []
    // An empty file is one whose holder is between making and filling it, or died there; a second tells these apart.
    if (holder === '') await sleep(1000)
    if (holder !== undefined && readIfThere(path) === holder && (pid === '' || startTime(pid) !== start)) rmSync(path, { force: true })
    else if (!waited) {
      onWait?.(pid)
      waited = true
    }
    if (signal?.aborted) throw interrupted(signal)
    await sleep(100)
  }
}

/** When the process started, in clock ticks since boot: with the pid it names a process for ever. @param {string} pid */
function startTime(pid) {
  const stat = readIfThere(`/proc/${pid}/stat`)
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
}

/** @param {string} path */
function readIfThere(path) {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

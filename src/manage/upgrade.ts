/**
 * A new version of this program, or a fresh start of this one, in the place of the running one: same process, same arguments, new code.
 * The process keeps its number, its terminal and its parent; the children keep running, stay its children, and are adopted.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { BeyondError } from '../errors.ts'

const CHECK_MS = 20_000

/** Whether the code that lies on disk now can be loaded at all; throws CHILD_FAILED with its last words when it can't. */
export async function checkSuccessor(program = process.argv[1]): Promise<void> {
  const child = spawn(process.execPath, [...process.execArgv, program, '--help'], { stdio: ['ignore', 'ignore', 'pipe'], timeout: CHECK_MS, killSignal: 'SIGKILL' })
  let words = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (words = (words + text).slice(-2_000)))
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
  if (code === 0) return
  const why = words.trim().split('\n').findLast((line) => /error/i.test(line)) ?? `${signal ?? `exit code ${code}`}`
  throw new BeyondError('CHILD_FAILED', `The program on disk does not start, so this one goes on: ${why.trim()}`, { facts: { exitCode: code ?? undefined } })
}

/** Never returns. What is to survive must have been let go before: locks end here, pipes and files of ours are closed. */
export function becomeSuccessor(): never {
  if (!process.execve) throw new BeyondError('INTERNAL', 'This Node cannot replace its program: stop beyond-pg with SIGKILL and start it again; its children keep running.')
  return process.execve(process.execPath, [process.execPath, ...process.execArgv, ...process.argv.slice(1)], process.env)
}

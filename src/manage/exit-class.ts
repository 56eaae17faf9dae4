/** What the end of a child means, in words for an operator. Pure. */
import { type LogLine, tellsDiskFull } from './log-line.ts'
import type { Exit } from './running-process.ts'

export type ExitClass =
  /** It ended by itself and found nothing wrong, though nobody asked it to. */
  | 'finished'
  /** It said no: a bad setting, a port in use. */
  | 'failed'
  | 'disk-full'
  /** SIGKILL: by hand, or by the kernel for want of memory. */
  | 'killed'
  /** A fault in the program. */
  | 'crashed'
  /** Somebody else asked it to end. */
  | 'stopped-by-others'
  /** The program could not be run at all. */
  | 'not-started'
  /** It was not our child. */
  | 'unknown'

const CRASHES = new Set(['SIGSEGV', 'SIGABRT', 'SIGBUS', 'SIGILL', 'SIGFPE', 'SIGTRAP', 'SIGSYS'])

export function classifyExit(exit: Exit, lastLines: readonly LogLine[]): ExitClass {
  if (exit.failure) return 'not-started'
  if (tellsDiskFull(lastLines.map(({ text }) => text))) return 'disk-full'
  if (exit.signal === 'SIGKILL') return 'killed'
  if (exit.signal !== undefined) return CRASHES.has(exit.signal) ? 'crashed' : 'stopped-by-others'
  if (exit.code === undefined) return 'unknown'
  return exit.code === 0 ? 'finished' : 'failed'
}

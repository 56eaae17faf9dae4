/**
 * A process that is not a child of ours, held by a descriptor: the kernel tells when it has ended, and a signal can never reach
 * another process that was given its number. Needs Linux 5.3; where the kernel or a filter refuses, `openPidFd` answers undefined.
 * Sources: pidfd_open(2), pidfd_send_signal(2), waitpid(2).
 */
import { closeSync } from 'node:fs'
import { createRequire } from 'node:module'
import { constants } from 'node:os'

// The same numbers on every architecture: both came after the tables were made one.
const SYS_PIDFD_SEND_SIGNAL = 424
const SYS_PIDFD_OPEN = 434
const POLLIN = 1
const WNOHANG = 1

export type PidFd = Disposable & {
  readonly hasEnded: () => boolean
  /** Nothing happens when it has ended. */
  readonly signal: (name: NodeJS.Signals) => void
}

export type WaitStatus = { readonly code: number | undefined; readonly signal: string | undefined }

type PollFd = { fd: number; events: number; revents: number }
type Kernel = {
  readonly syscall: (number: number, ...rest: unknown[]) => number
  readonly poll: (fds: PollFd[], count: number, timeoutMs: number) => number
  readonly waitpid: (pid: number, status: number[], options: number) => number
}

let kernel: Kernel | undefined
let isMissing = false

/** Loaded with the first process that is adopted: most starts have none. */
function load(): Kernel | undefined {
  if (isMissing) return undefined
  try {
    return (kernel ??= bind())
  } catch {
    isMissing = true
    return undefined
  }
}

function bind(): Kernel {
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi')
  const library = koffi.load(null)
  koffi.struct('beyond_pollfd', { fd: 'int', events: 'short', revents: 'short' })
  return {
    syscall: library.func('long syscall(long number, ...)') as Kernel['syscall'],
    poll: library.func('int poll(_Inout_ beyond_pollfd *fds, unsigned long count, int timeout)') as Kernel['poll'],
    waitpid: library.func('int waitpid(int pid, _Out_ int *status, int options)') as Kernel['waitpid'],
  }
}

/** Whose number it is must be checked afterwards: from then on it stays the same process. */
export function openPidFd(pid: number): PidFd | undefined {
  const calls = load()
  const fd = calls?.syscall(SYS_PIDFD_OPEN, 'int', pid, 'unsigned int', 0) ?? -1
  if (!calls || fd < 0) return undefined
  let open = true
  return {
    hasEnded: () => calls.poll([{ fd, events: POLLIN, revents: 0 }], 1, 0) === 1,
    signal: (name) => void calls.syscall(SYS_PIDFD_SEND_SIGNAL, 'int', fd, 'int', constants.signals[name], 'void *', null, 'unsigned int', 0),
    [Symbol.dispose]: () => {
      if (open) closeSync(fd)
      open = false
    },
  }
}

/**
 * Takes the exit status of a child that this process started before it replaced its own program (an upgrade): the runtime no
 * longer knows of it. Undefined for processes that are no children, whose status only their parent learns.
 */
export function reap(pid: number): WaitStatus | undefined {
  const status = [0]
  if (load()?.waitpid(pid, status, WNOHANG) !== pid) return undefined
  const number = status[0] & 0x7f
  if (number === 0) return { code: (status[0] >> 8) & 0xff, signal: undefined }
  const name = Object.entries(constants.signals).find(([, value]) => value === number)?.[0]
  return { code: undefined, signal: name ?? `signal ${number}` }
}

/** A process that an earlier supervisor started and left running: waited for by pidfd, or by looks at /proc where there is none. */
import { openPidFd, reap, type PidFd } from '../pidfd.ts'
import { removeRecord } from './child-process.ts'
import { type ProcessIdentity, isAlive, signalProcess } from './process-identity.ts'
import type { Exit, RunningProcess } from './running-process.ts'

const LOOK_AGAIN_MS = 50

type Output = { readonly drain: () => void; readonly lastLines: readonly string[] }

export class AdoptedProcess implements RunningProcess {
  readonly adopted = true
  readonly exited: Promise<Exit>
  readonly #identity: ProcessIdentity
  readonly #output: Output
  readonly #pidFd: PidFd | undefined
  #ended = false

  constructor(name: string, identity: ProcessIdentity, output: Output, runDirectory: string) {
    this.#identity = identity
    this.#output = output
    this.#pidFd = openPidFd(identity.pid)
    this.exited = this.#awaitEnd().finally(() => removeRecord(runDirectory, name))
  }

  get pid(): number {
    return this.#identity.pid
  }

  get lastLines(): readonly string[] {
    return this.#output.lastLines
  }

  signal(name: NodeJS.Signals): void {
    if (this.#ended) return
    if (this.#pidFd && isAlive(this.#identity)) this.#pidFd.signal(name)
    else signalProcess(this.#identity, name)
  }

  /** It leads a process group, as all that we start do. */
  killGroup(): void {
    if (this.#ended || !isAlive(this.#identity)) return
    try {
      process.kill(-this.pid, 'SIGKILL')
    } catch {
      this.signal('SIGKILL')
    }
  }

  #awaitEnd(): Promise<Exit> {
    return new Promise((resolve) => {
      // A poll of a descriptor costs a microsecond; a blocking wait would cost a thread for each process.
      const look = () => {
        const lives = this.#pidFd ? !this.#pidFd.hasEnded() && isSame() : isAlive(this.#identity)
        if (lives) return
        clearInterval(timer)
        this.#ended = true
        this.#pidFd?.[Symbol.dispose]()
        const status = reap(this.pid)
        this.#output.drain()
        resolve(status ?? { code: undefined, signal: undefined })
      }
      // The number may have been given out again before the descriptor was opened; after that it can't.
      let checked = false
      const isSame = () => (checked ||= isAlive(this.#identity))
      const timer = setInterval(look, LOOK_AGAIN_MS)
    })
  }
}

/** How many PgBouncer workers there should be, from how busy they are. Pure: samples come in at a steady pace. */

/** Of one worker since the sample before. */
export type WorkerLoad = {
  /** Share of one processor, 0 to 1. A worker is one thread, so 1 is all that it can do. */
  readonly cpu: number
  /** Share of the clients that it may have, 0 to 1. */
  readonly clients: number
}

/** For how many samples in a row one worker more, or one less, would have been right. */
export type LoadHistory = { readonly wantsMore: number; readonly wantsLess: number }
export type WorkerDecision = { readonly history: LoadHistory; readonly action: 'add' | 'shed' | 'keep' }

/** Another worker gives 1.5 to 1.8 times the connections per second, as long as there is a processor for it. */
const BUSY = 0.6
const FULL = 0.8
/** What those that stay would have after one has left; far below BUSY, so that the two never take turns. */
const RELAXED = 0.3
const MORE_AFTER = 3
/** Shedding moves clients, so it waits for long. */
const LESS_AFTER = 24

export const noLoad: LoadHistory = { wantsMore: 0, wantsLess: 0 }

export function decideWorkers(history: LoadHistory, loads: readonly WorkerLoad[], most: number): WorkerDecision {
  const total = (of: (load: WorkerLoad) => number): number => loads.reduce((sum, load) => sum + of(load), 0)
  const [cpu, clients] = [total((load) => load.cpu), total((load) => load.clients)]
  const count = loads.length
  const isBusy = count > 0 && count < most && (cpu / count >= BUSY || loads.some((load) => load.clients >= FULL))
  const isIdle = count > 1 && cpu / (count - 1) <= RELAXED && clients / (count - 1) <= RELAXED
  const next = { wantsMore: isBusy ? history.wantsMore + 1 : 0, wantsLess: isIdle ? history.wantsLess + 1 : 0 }
  if (next.wantsMore >= MORE_AFTER) return { history: noLoad, action: 'add' }
  if (next.wantsLess >= LESS_AFTER) return { history: noLoad, action: 'shed' }
  return { history: next, action: 'keep' }
}

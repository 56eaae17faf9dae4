/** When a child that ended is started again. Pure: time comes in as numbers. */
export type RestartHistory = { readonly attempt: number }
export type RestartDecision = { readonly history: RestartHistory; readonly delayMs: number }

const FIRST_DELAY_MS = 100
const LONGEST_DELAY_MS = 30_000
/** A child that ran so long was well; its next failure is a first one again. */
const STABLE_MS = 60_000

export const noRestarts: RestartHistory = { attempt: 0 }

/** `hopeless`: the child said that trying again won't help; it is tried seldom, since an operator may mend the cause. */
export function afterExit(history: RestartHistory, ranForMs: number, hopeless: boolean): RestartDecision {
  const attempt = ranForMs >= STABLE_MS ? 1 : history.attempt + 1
  const delayMs = hopeless ? LONGEST_DELAY_MS : Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** Math.min(attempt - 1, 20))
  return { history: { attempt }, delayMs }
}

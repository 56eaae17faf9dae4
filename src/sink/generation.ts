/**
 * Which primary a sink may take WAL from. Pure: a state, an event, and either the next state or a refusal.
 *
 *     new ──attach(g)──► attached(g) ──seal(h > g)──► sealed(h) ──attach(h), same box──► attached(h)
 *
 * A generation is claimed by the first box that seals or attaches with it, and by no other one ever after. The table at
 * the end is complete: a missing pair of state and event does not compile.
 */
import type { ErrorCode } from '../errors.ts'

/** `generation` rises with every recovery or promotion; `by` is the identity of the box that claimed it. */
export type Claim = { readonly generation: bigint; readonly by: string }

export type GenerationState =
  | { readonly at: 'new' }
  /** Takes WAL from the primary of this generation. */
  | { readonly at: 'attached'; readonly claim: Claim }
  /** Takes WAL from nobody: `claim` is the generation to come, `from` the one that was stopped. */
  | { readonly at: 'sealed'; readonly claim: Claim; readonly from: bigint }

export type GenerationEvent = { readonly kind: 'seal' | 'attach'; readonly claim: Claim }

export type Verdict =
  | { readonly ok: true; readonly state: GenerationState; readonly changed: boolean }
  | { readonly ok: false; readonly code: Extract<ErrorCode, 'STALE_GENERATION' | 'GENERATION_TAKEN' | 'NOT_SEALED'>; readonly message: string }

type State = GenerationState['at']
type Rule<S extends State> = (state: Extract<GenerationState, { at: S }>, claim: Claim) => Verdict

const to = (state: GenerationState, changed = true): Verdict => ({ ok: true, state, changed })
const same = (a: Claim, b: Claim): boolean => a.generation === b.generation && a.by === b.by

/** Why a claim that is not above `held` and not the same is refused. */
function refuse(held: Claim, claim: Claim): Verdict {
  if (same(held, claim)) return { ok: false, code: 'STALE_GENERATION', message: `Generation ${claim.generation} is attached already: a recovery takes the next one.` }
  if (claim.generation < held.generation)
    return { ok: false, code: 'STALE_GENERATION', message: `Generation ${claim.generation} is over: this sink is at ${held.generation}, claimed by ${held.by}.` }
  return { ok: false, code: 'GENERATION_TAKEN', message: `Generation ${claim.generation} belongs to ${held.by}, and ${claim.by} can't have it: claim a later one.` }
}

const table: { readonly [S in State]: { readonly [E in GenerationEvent['kind']]: Rule<S> } } = {
  new: {
    // Even an empty sink counts in the quorum that a recovery seals.
    seal: (_state, claim) => to({ at: 'sealed', claim, from: 0n }),
    attach: (_state, claim) => to({ at: 'attached', claim }),
  },
  attached: {
    seal: ({ claim: held }, claim) => (claim.generation > held.generation ? to({ at: 'sealed', claim, from: held.generation }) : refuse(held, claim)),
    attach: ({ claim: held }, claim) => {
      // Again, perhaps with another address.
      if (same(held, claim)) return to({ at: 'attached', claim }, false)
      if (claim.generation <= held.generation) return refuse(held, claim)
      return { ok: false, code: 'NOT_SEALED', message: `Generation ${claim.generation} has to seal this sink before it attaches: ${held.generation} still writes to it.` }
    },
  },
  sealed: {
    seal: (state, claim) => {
      if (same(state.claim, claim)) return to(state, false)
      return claim.generation > state.claim.generation ? to({ at: 'sealed', claim, from: state.from }) : refuse(state.claim, claim)
    },
    attach: ({ claim: held }, claim) => {
      if (same(held, claim)) return to({ at: 'attached', claim })
      if (claim.generation <= held.generation) return refuse(held, claim)
      return { ok: false, code: 'NOT_SEALED', message: `Generation ${claim.generation} has to seal this sink before it attaches: ${held.generation} has sealed it.` }
    },
  },
}

export function advanceGeneration(state: GenerationState, { kind, claim }: GenerationEvent): Verdict {
  return (table[state.at][kind] as Rule<State>)(state as never, claim)
}

/** Which generation may seal and attach: every pair of state and event, and what holds for any sequence of them. */
import assert from 'node:assert/strict'
import { it } from 'node:test'
import fc from 'fast-check'
import { advanceGeneration, type Claim, type GenerationState } from '../../src/sink/generation.ts'

const claim = (generation: number, by = 'a'): Claim => ({ generation: BigInt(generation), by })
const attached = (generation: number, by = 'a'): GenerationState => ({ at: 'attached', claim: claim(generation, by) })
const sealed = (generation: number, by = 'a', from = 1): GenerationState => ({ at: 'sealed', claim: claim(generation, by), from: BigInt(from) })

const rows: [GenerationState, 'seal' | 'attach', Claim, GenerationState | string][] = [
  [{ at: 'new' }, 'attach', claim(1), attached(1)],
  [{ at: 'new' }, 'seal', claim(5), sealed(5, 'a', 0)],
  [attached(3), 'attach', claim(3), attached(3)],
  [attached(3), 'attach', claim(3, 'b'), 'GENERATION_TAKEN'],
  [attached(3), 'attach', claim(2), 'STALE_GENERATION'],
  [attached(3), 'attach', claim(4), 'NOT_SEALED'],
  [attached(3), 'seal', claim(4, 'b'), sealed(4, 'b', 3)],
  [attached(3), 'seal', claim(3, 'b'), 'GENERATION_TAKEN'],
  [attached(3), 'seal', claim(3), 'STALE_GENERATION'],
  [attached(3), 'seal', claim(2), 'STALE_GENERATION'],
  [sealed(4), 'seal', claim(4), sealed(4)],
  [sealed(4), 'seal', claim(4, 'b'), 'GENERATION_TAKEN'],
  [sealed(4), 'seal', claim(3), 'STALE_GENERATION'],
  [sealed(4), 'seal', claim(5, 'b'), sealed(5, 'b')],
  [sealed(4), 'attach', claim(4), attached(4)],
  [sealed(4), 'attach', claim(4, 'b'), 'GENERATION_TAKEN'],
  [sealed(4), 'attach', claim(3), 'STALE_GENERATION'],
  [sealed(4), 'attach', claim(5), 'NOT_SEALED'],
]

for (const [state, kind, by, expected] of rows)
  it(`${state.at} ${'claim' in state ? state.claim.generation : ''}: ${kind} ${by.generation} by ${by.by}`, () => {
    const verdict = advanceGeneration(state, { kind, claim: by })
    if (typeof expected === 'string') assert.equal(!verdict.ok && verdict.code, expected)
    else assert.deepEqual(verdict.ok && verdict.state, expected)
  })

it('never goes back, and gives each generation to one box', () => {
  const event = fc.record({
    kind: fc.constantFrom('seal' as const, 'attach' as const),
    claim: fc.record({ generation: fc.bigInt(1n, 6n), by: fc.constantFrom('a', 'b', 'c') }),
  })
  fc.assert(
    fc.property(fc.array(event, { maxLength: 40 }), (events) => {
      let state: GenerationState = { at: 'new' }
      let high = 0n
      const owners = new Map<bigint, string>()
      for (const each of events) {
        const verdict = advanceGeneration(state, each)
        if (!verdict.ok) continue
        const { claim } = each
        assert.ok(claim.generation >= high)
        high = claim.generation
        assert.equal(owners.get(claim.generation) ?? claim.by, claim.by)
        owners.set(claim.generation, claim.by)
        // A later primary never comes without a seal between it and the one before.
        if (verdict.state.at === 'attached' && state.at === 'attached') assert.equal(verdict.state.claim.generation, state.claim.generation)
        state = verdict.state
      }
    }),
  )
})

/** The operator's scripts around the start. */
import { hooksFor, type Moment, runHooks } from '../hooks.ts'
import { type Boot, nothing, type Plan, type Step, will } from './step.ts'

export const preStartHooks: Step = { name: 'pre-start hooks', look: (boot) => plan('pre-start', boot) }
export const postStartHooks: Step = { name: 'post-start hooks', look: (boot) => plan('post-start', boot) }

function plan(moment: Moment, boot: Boot): Plan {
  const paths = hooksFor(moment, boot)
  if (paths.length === 0) return nothing('there are none')
  const { config, layout, childEnvironment: environment, logger, stop: signal } = boot
  return will(`run ${paths.join(', ')}`, async () => {
    const problems = await runHooks(moment, { config, layout, environment, logger, signal })
    boot.problems.push(...problems)
    return `ran ${paths.length}, of which ${problems.length} failed`
  })
}

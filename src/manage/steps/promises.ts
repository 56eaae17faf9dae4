/** What the settings promise and this version can't keep is refused before anything is made: a promise that is ignored loses data. */
import { BeyondError } from '../../errors.ts'
import { boxSettings, type SettingName } from '../settings.ts'
import { nothing, type Step } from './step.ts'

export const promises: Step = {
  name: 'promises',
  look: ({ config }) => {
    const { tier, pitrTarget } = config.settings
    if (tier === 'sink') throw refusal('tier', 'a sink is not run by this program')
    if (pitrTarget) throw refusal('pitrTarget', 'this version recovers to no target, and would go on from the newest state')
    return nothing('none that can not be kept')
  },
}

const refusal = (name: SettingName, why: string): BeyondError => new BeyondError('BAD_ARGUMENT', `${boxSettings[name].env} can't be honoured: ${why}; remove it.`)

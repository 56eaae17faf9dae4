/** What the machine must offer: programs and ports. */
import { checkPorts } from '../ports.ts'
import { findPrograms } from '../programs.ts'
import { nothing, type Step } from './step.ts'

export const programs: Step = {
  name: 'programs',
  look: (boot) => {
    boot.programs = findPrograms(boot.config, boot.layout.account, boot.environment['PATH'] ?? '')
    return nothing(`${boot.programs.postgres} and ${boot.programs.pgbouncer} will do`)
  },
}

export const ports: Step = {
  name: 'ports',
  look: async (boot) => {
    await checkPorts(boot.config, boot.leftovers?.names ?? boot.recorded)
    return nothing('they are free, or held by our own children')
  },
}

/** The processes that are kept running: taken over where they run already, else started. */
import { cdcAccount, cdcChild, poolerWorkers, postgresChild } from '../box-children.ts'
import type { ChildSpec } from '../supervised-child.ts'
import { unlessStopped } from '../unless-stopped.ts'
import { poolerPaths, poolerSize } from './config-files.ts'
import { type Boot, boxParts, given, type Step, will } from './step.ts'

/** Before any of them starts, so that each finds what an earlier supervisor left of it; what nobody takes is ended. */
export const children: Step = {
  name: 'children',
  look: (boot) => {
    const { config, layout, keep, stop } = boot
    const names = ['postgres', 'pgbouncer', ...(config.cdc ? ['cdc'] : [])]
    return will(`supervise ${names.join(', ')}; end others that an earlier start left`, async () => {
      const parts = boxParts(boot)
      const leftovers = given(boot.leftovers, 'what is left running')
      boot.children = {
        postgres: keep(withUserLayer(postgresChild(parts), boot)),
        pooler: poolerWorkers(parts, { iniFile: poolerPaths(layout).iniFile, ...poolerSize(boot), leftovers }),
        cdc: config.cdc && keep(cdcChild(parts, config.cdc, cdcAccount(layout.account))),
      }
      boot.defer((hurry) => given(boot.children.pooler, 'PgBouncer').stop(hurry))
      await leftovers.endRest(stop)
      return `supervising ${names.join(', ')}`
    })
  },
}

export const postgres: Step = {
  name: 'postgres',
  look: (boot) =>
    will('start Postgres, or take it over, and wait until it answers', async () => {
      const child = given(boot.children.postgres, 'the child Postgres')
      try {
        await unlessStopped(boot.stop, child.start())
      } catch (error) {
        if (boot.stop.aborted || !boot.userLayer?.mayBeToBlame) throw error
        await unlessStopped(boot.stop, child.restart())
      }
      if (boot.userLayer?.problem !== undefined) boot.problems.push(boot.userLayer.problem)
      return 'it answers'
    }),
}

/** Without the change stream the box is still a database; so its failure is told loudly and tried again, and stops nothing. */
export const changeStream: Step = {
  name: 'change stream',
  look: (boot) =>
    will(boot.config.cdc ? 'start it, while PgBouncer starts' : 'none is wanted', () => {
      boot.cdcProblem = boot.children.cdc?.start().then(() => undefined, (error: Error) => error.message)
      return boot.config.cdc ? 'starting' : 'none is wanted'
    }),
}

export const pooler: Step = {
  name: 'pooler',
  look: (boot) =>
    will('start PgBouncer, or take it over, and wait until a query gets through it', async () => {
      await unlessStopped(boot.stop, Promise.all([given(boot.children.pooler, 'the child PgBouncer').start(), boot.cdcProblem]))
      return 'a query gets through it'
    }),
}

/** A start that the user's settings keep from coming about is tried again without them, now and later. */
function withUserLayer(spec: ChildSpec, { userLayer }: Boot): ChildSpec {
  const layer = given(userLayer, 'the user layer')
  return {
    ...spec,
    prepare: async (signal) => {
      await spec.prepare?.(signal)
      await layer.prepare(signal)
    },
    ready: async (process, signal) => {
      await spec.ready(process, signal)
      layer.served()
    },
  }
}

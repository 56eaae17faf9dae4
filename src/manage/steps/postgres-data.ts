/** The data directory of Postgres: made, copied from the primary, or adopted; and whether it is of the tier that the settings say. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { BeyondError } from '../../errors.ts'
import { copyPrimary } from '../base-backup.ts'
import { readMarker } from '../layout.ts'
import { ensurePostgresData, markInitialized, planPostgresData, removeUnfinished } from '../postgres-data.ts'
import { endProcessesOf } from '../stray-processes.ts'
import { type Boot, given, nothing, type Step, will } from './step.ts'

export const postgresData: Step = {
  name: 'data directory of Postgres',
  look: (boot) => {
    const { layout, config } = boot
    const isReplica = config.settings.tier === 'replica'
    if (planPostgresData(layout) === 'make') {
      return isReplica
        ? will(`copy the primary into ${layout.postgres}`, () => makeReplica(boot))
        : will(`make ${layout.postgres} with initdb`, () => makePrimary(boot))
    }
    checkTier(boot)
    const says = `${layout.postgres} is ours and of this version${isReplica ? ', a replica' : ''}`
    if (readMarker(layout)?.initialized && !existsSync(layout.postgresUnfinished)) return nothing(says)
    return will('mark it as made, and remove what was begun', async () => {
      await clear(boot)
      markInitialized(layout) // a crash came between the rename and this: from now on a missing directory is a loss
      return says
    })
  },
}

/** A replica is never opened as a primary because a setting is missing, nor a primary overwritten because one is stale. */
function checkTier({ layout, config }: Boot): void {
  const follows = existsSync(join(layout.postgres, 'standby.signal'))
  if (follows && config.settings.tier === 'primary') {
    throw new BeyondError(
      'DATA_DIRECTORY',
      `${layout.postgres} is a replica's and BEYOND_PG_TIER says primary: set it to replica, or remove standby.signal in it to open it for writing for good.`,
      { facts: { path: layout.postgres } },
    )
  }
  if (!follows && config.settings.tier === 'replica') {
    throw new BeyondError(
      'DATA_DIRECTORY',
      `${layout.postgres} is a primary's and BEYOND_PG_TIER says replica: set it to primary if this box was promoted, or start the replica in an empty directory.`,
      { facts: { path: layout.postgres } },
    )
  }
}

/** What an earlier boot left working there would go on writing into the new one. */
async function clear({ layout, logger, stop }: Boot): Promise<void> {
  await endProcessesOf(layout.postgresUnfinished, logger, stop)
  removeUnfinished(layout, logger)
}

async function makePrimary(boot: Boot): Promise<void> {
  const { layout, childEnvironment: environment, logger, stop: signal } = boot
  await clear(boot)
  const { initdb } = given(boot.programs, 'the programs')
  await ensurePostgresData({ layout, initdb, environment, adminPassword: given(boot.passwords, 'the passwords').beyond_admin, logger, signal })
}

async function makeReplica(boot: Boot): Promise<void> {
  const { layout, childEnvironment: environment, logger, stop: signal } = boot
  await clear(boot)
  const conninfo = given(boot.config.settings.primaryConninfo, 'the connection to the primary')
  await copyPrimary({ layout, programs: given(boot.programs, 'the programs'), conninfo, environment, logger, signal })
  markInitialized(layout)
}

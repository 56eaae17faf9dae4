/** What is inside of Postgres: roles, databases, the lookup of PgBouncer, the publication, extensions. */
import { ensureExtensions, setUpDatabase } from '../database-setup.ts'
import { installedExtensions } from '../extensions.ts'
import { unlessStopped } from '../unless-stopped.ts'
import { type Boot, given, nothing, type Step, will } from './step.ts'

const REPLICA = 'a replica has what its primary has'

export const rolesAndDatabases: Step = {
  name: 'roles and databases',
  asks: 'postgres',
  look: (boot) => {
    const { config, layout, logger, passwords } = boot
    const { tier, roles, databases } = config.settings
    if (tier === 'replica') return nothing(REPLICA)
    const names = [...roles, ...databases].map(({ name }) => name)
    return will(`make what is missing of the box's own roles${names.length > 0 ? ` and ${names.join(', ')}` : ''}`, async () => {
      const address = { host: layout.sockets, port: config.postgresPort }
      const setup = { address, passwords: given(passwords, 'the passwords'), cdc: config.cdc, roles, databases, logger }
      const did = await unlessStopped(boot.stop, setUpDatabase(setup))
      return did.length === 0 ? 'all are as they should be' : did.join(', ')
    })
  },
}

export const extensions: Step = {
  name: 'extensions',
  asks: 'postgres',
  look: (boot) => {
    const { config } = boot
    const wanted = config.settings.extensions
    if (config.settings.tier === 'replica') return nothing(REPLICA)
    if (wanted.length === 0) return nothing('none is wanted')
    return will(`make or update ${wanted.map(({ name }) => name).join(', ')}`, () => makeExtensions(boot))
  },
}

/** A failure of one is told, and stops neither the others nor the box. */
async function makeExtensions(boot: Boot): Promise<string> {
  const { config, layout, logger } = boot
  const { did, problems } = await unlessStopped(
    boot.stop,
    ensureExtensions({
      address: { host: layout.sockets, port: config.postgresPort },
      passwords: given(boot.passwords, 'the passwords'),
      wanted: config.settings.extensions,
      databases: [...new Set([...(config.cdc ? [config.cdc.database] : ['postgres']), ...config.settings.databases.map(({ name }) => name)])],
      installed: installedExtensions(given(boot.programs, 'the programs')).extensions,
    }),
  )
  for (const problem of problems) logger.error({ step: 'extensions' }, problem)
  boot.extensionProblems = problems
  boot.problems.push(...problems)
  return did.length === 0 ? `${problems.length === 0 ? 'all are there' : 'nothing was made'}` : did.join(', ')
}

/** From here on the box follows its machine: memory, processors, the size of the volume. */
import { join } from 'node:path'
import { writeFileAtomic } from '../atomic-file.ts'
import { PoolerConsole } from '../pooler-console.ts'
import type { Settings } from '../postgres-config.ts'
import { Retuner } from '../retune.ts'
import { retuneMethod } from '../retune-method.ts'
import { growIfLarger, type ScaleOptions } from '../scale.ts'
import { checkSettings } from '../settings-check.ts'
import type { TuningInput } from '../tuning.ts'
import { configAccess, poolerFiles, tuningFile, tuningInput } from './config-files.ts'
import { type Boot, given, nothing, type Step, will } from './step.ts'

export const retuning: Step = {
  name: 'retuning',
  look: (boot) => {
    if (boot.config.settings.tier === 'sink') return nothing('a sink runs no Postgres')
    return will('watch memory, processors and the volume, and tune Postgres anew when they change', () => {
      const retuner = boxRetuner(boot)
      boot.retuner = retuner
      boot.methods.set('retune', retuneMethod({ retuner, ...growth(boot) }))
      boot.defer(() => retuner[Symbol.asyncDispose]())
      retuner.start()
      return 'watching memory, processors and the volume'
    })
  },
}

const growth = ({ layout, config, logger }: Boot): Omit<ScaleOptions, 'retuner'> => ({ folder: layout.root, mayGrow: config.profile === 'production', logger })

function boxRetuner(boot: Boot): Retuner {
  const { config, layout, logger, childEnvironment: environment, stop } = boot
  const programs = given(boot.programs, 'the programs')
  const passwords = given(boot.passwords, 'the passwords')
  const postgres = given(boot.children.postgres, 'the child Postgres')
  const pooler = given(boot.children.pooler, 'the child PgBouncer')
  const login = { user: 'beyond_pooler', password: passwords.beyond_pooler }
  const console = new PoolerConsole(() => pooler.sockets.map((host) => ({ host, port: config.poolerPort, ...login })))
  const command = {
    program: programs.postgres,
    args: ['-D', layout.postgres, '-c', `config_file=${join(layout.config, 'postgresql.conf')}`],
    environment,
    account: layout.account,
  }
  let failedBefore = false
  return new Retuner({
    read: () => readGrown(boot),
    applied: tuningInput(boot),
    write: (settings: Settings) => {
      const { path, content } = tuningFile(layout, settings)
      writeFileAtomic(path, content, configAccess(layout))
    },
    check: (settings) => checkSettings(command, settings, stop),
    restart: async () => {
      try {
        await postgres.restart()
        failedBefore = false
      } catch (error) {
        // The new tuning is to blame, not the user's settings; unless the former tuning, which comes next, does not start either.
        if (!failedBefore) boot.userLayer?.served()
        failedBefore = !failedBefore
        throw error
      }
    },
    pooler: {
      isPaused: () => console.isPaused(),
      pause: (withinMs, signal) => console.pause(withinMs, signal),
      resume: () => console.resume(),
      resize: async () => {
        await (await poolerFiles.look(boot)).act?.()
        pooler.reload()
      },
    },
    database: { host: layout.sockets, port: config.postgresPort, user: 'beyond_admin', password: passwords.beyond_admin, database: 'postgres' },
    logger,
  })
}

/** A device that has grown is used before the machine is looked at. */
async function readGrown(boot: Boot): Promise<TuningInput> {
  const options = growth(boot)
  const { problem } = options.mayGrow ? await growIfLarger(options, boot.stop) : {}
  if (problem !== undefined && !boot.problems.includes(problem)) {
    boot.problems.push(problem)
    boot.logger.error({ problem }, 'the volume has not grown with its device')
  }
  return tuningInput(boot)
}

/** `beyond-pg start` and `boot`: settings become one config object, and the box runs until it is told to stop, or to hand over. */
import { realpathSync } from 'node:fs'
import { join } from 'node:path'
import { type Command, Option } from 'commander'
import { describeBoot, runBox } from '../manage/box.ts'
import { type BoxConfig, parseBoxConfig, type RawFlags } from '../manage/box-config.ts'
import { openBoxLog } from '../manage/box-log.ts'
import { readyText } from '../manage/ready-text.ts'
import { boxSettings, type Definition, helpLine } from '../manage/settings.ts'
import { parseSettingsSource, readSettings } from '../manage/settings-source.ts'
import { stopSignals } from '../manage/stop-signals.ts'
import type { TuningProfile } from '../manage/tuning.ts'
import { keepMemoryTrim } from '../manage/trim-memory.ts'
import { becomeSuccessor, checkSuccessor } from '../manage/upgrade.ts'

export function addStartCommands(program: Command): void {
  const start = program.command('start').description('bring up a box and stay in the foreground; Ctrl-C stops it')
  addBoxOptions(start, 'environment').action(async (flags: BoxFlags) => {
    await startBox(flags, 'development')
  })

  const boot = program.command('boot').description('bring up a box on a machine of its own, and keep it up; what PID 1 runs')
  addBoxOptions(boot, 'mmds')
    .option('--dry-run', 'print what each step would do, and do nothing')
    .action(async (flags: BoxFlags & { dryRun?: true }) => {
      if (!flags.dryRun) return startBox(flags, 'production')
      const { stop } = stopSignals(process)
      process.stdout.write(await describeBoot(await readConfig(flags, stop, 'production'), process.env, stop))
    })
}

type BoxFlags = RawFlags & { readonly settings: string }

function addBoxOptions(command: Command, source: string): Command {
  for (const definition of Object.values<Definition<unknown>>(boxSettings)) {
    if (definition.flag) command.addOption(new Option(definition.flag, helpLine(definition)))
  }
  return command.addOption(new Option('--settings <source>', 'where settings come from: mmds, environment, or a file of KEY=VALUE lines or JSON').default(source))
}

async function readConfig(flags: BoxFlags, signal: AbortSignal, profile: TuningProfile): Promise<BoxConfig> {
  const given = await readSettings(parseSettingsSource(flags.settings, process.cwd()), process.env, signal)
  return parseBoxConfig(flags, given, process.cwd(), profile)
}

/** Runs that were well for so long are begun anew after a fault of ours; shorter ones would only fault again. */
const STABLE_MS = 60_000

/** How often the metadata service or the file is read again. */
const WATCH_SETTINGS_MS = 30_000

async function startBox(flags: BoxFlags, profile: TuningProfile): Promise<void> {
  const { stop, hurry, requestStop } = stopSignals(process)
  const config = await readConfig(flags, stop, profile)
  const handOver = new AbortController()
  let fault: Error | undefined
  let readyAt = Infinity
  process.on('uncaughtException', (error) => {
    fault ??= error
    // Children need no supervisor to go on, so a fault of ours is no reason to stop them, unless it comes back at once.
    if (performance.now() - readyAt < STABLE_MS || readyAt === Infinity) requestStop()
    else handOver.abort()
  })
  process.on('SIGUSR2', () => {
    checkSuccessor().then(
      () => handOver.abort(),
      (error: Error) => process.stderr.write(`beyond-pg: ${error.message}\n`),
    )
  })
  {
    await using log = new AsyncDisposableStack()
    log.use(keepMemoryTrim())
    const end = await runBox(config, {
      openLog: (layout) => log.use(openBoxLog({ json: config.json, terminal: process.stderr, directory: layout.log })),
      stop,
      hurry,
      handOver: handOver.signal,
      environment: process.env,
      requests: { stop: requestStop, checkSuccessor, handOver: () => handOver.abort() },
      readConfig: () => readConfig(flags, stop, profile),
      watchMs: flags.settings === 'environment' ? undefined : WATCH_SETTINGS_MS,
      onReady: (ready) => {
        readyAt = performance.now()
        const place = { workingDirectory: process.cwd(), isDefaultDataDir: isDefaultDataDir(ready.layout.root) }
        process.stdout.write(config.json ? `${JSON.stringify({ event: 'ready', box: ready.box, cdcProblem: ready.cdcProblem })}\n` : readyText(ready, place))
      },
    }).catch((error: unknown) => {
      throw fault ?? error
    })
    if (end === 'stopped') {
      if (fault) throw fault
      return
    }
  }
  if (fault) process.stderr.write(`beyond-pg: starts anew after a fault: ${fault.stack ?? fault.message}\n`)
  becomeSuccessor()
}

function isDefaultDataDir(root: string): boolean {
  try {
    return realpathSync(join(process.cwd(), '.beyond')) === root
  } catch {
    return false
  }
}

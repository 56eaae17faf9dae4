#!/usr/bin/env node
/** `beyond-pg`: runs on every box. Flags become one config object; the rest is in src/manage. */
import { realpathSync } from 'node:fs'
import { join } from 'node:path'
import { Command, CommanderError, Option } from 'commander'
import { BeyondError, codeOf, exit, fromSystem } from './errors.ts'
import type { BoxIo } from './cli/box-commands.ts'
import { describeBoot, runBox } from './manage/box.ts'
import { type BoxConfig, parseBoxConfig, type RawFlags } from './manage/box-config.ts'
import { openBoxLog } from './manage/box-log.ts'
import { readyText } from './manage/ready-text.ts'
import { boxSettings, type Definition, helpLine } from './manage/settings.ts'
import { parseSettingsSource, readSettings } from './manage/settings-source.ts'
import { stopSignals } from './manage/stop-signals.ts'
import type { TuningProfile } from './manage/tuning.ts'
import { keepMemoryTrim } from './manage/trim-memory.ts'
import { becomeSuccessor, checkSuccessor } from './manage/upgrade.ts'

const program = new Command('beyond-pg').description('Postgres 18 in a box, its changes streaming over QUIC').exitOverride()

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

// What keeps a box up stays in memory for months, so it loads nothing that only other commands need.
const keepsBox = process.argv[2] === 'start' || process.argv[2] === 'boot'
if (!keepsBox) await addOtherCommands()

async function addOtherCommands(): Promise<void> {
  program
    .command('demo')
    .description('write a small, lively workload into a running box; Ctrl-C ends it')
    .option('--rate <number>', 'transactions per second (default: 8)')
    .option('--seconds <number>', 'how long (default: until Ctrl-C)')
    .option('--data <dir>', helpLine(boxSettings.data))
    .action(async (flags: Record<string, string | undefined>) => {
      const { parseDemoConfig, runDemo } = await import('./manage/demo.ts')
      const { stop, hurry } = stopSignals(process)
      hurry.addEventListener('abort', () => process.exit(130))
      await runDemo(parseDemoConfig(flags, process.env, process.cwd()), { signal: stop, say: (line) => process.stdout.write(`${line}\n`) })
    })

  let operatorStop: AbortSignal | undefined
  const operatorIo: BoxIo = {
    stdout: process.stdout,
    env: process.env,
    signal: () => (operatorStop ??= stopSignals(process).stop),
    setExitCode: (code) => (process.exitCode = code),
  }
  const [{ addBoxCommands }, { scaleCommand }, { tuneCommand }, { forkCommand }] = await Promise.all([
    import('./cli/box-commands.ts'),
    import('./cli/scale.ts'),
    import('./cli/tune.ts'),
    import('./cli/fork.ts'),
  ])
  addBoxCommands(program, operatorIo)
  program.addCommand(scaleCommand(operatorIo).exitOverride())
  program.addCommand(tuneCommand({ stdout: process.stdout, env: process.env }).exitOverride())
  program.addCommand(forkCommand({ stdout: process.stdout, env: process.env }))
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

// A terminal that went away must not end the box before it is stopped in order.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined)
try {
  await program.parseAsync()
} catch (error) {
  process.exitCode = explain(error)
}
process.exit()

/** One sentence on standard error; returns the exit code. */
function explain(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? exit.ok : exit.usage // it has said what is wrong
  if ((error as Error).name === 'AbortError') return exit.ok
  const known = error instanceof BeyondError ? error : fromSystem(error, 'running the box')
  process.stderr.write(`beyond-pg: ${known.message}\n`)
  if (codeOf(known) === 'INTERNAL') process.stderr.write(`${(error as Error).stack ?? ''}\n`)
  return known.exitCode
}

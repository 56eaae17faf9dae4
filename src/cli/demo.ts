/** `beyond-pg demo`: something to watch. */
import { Command } from 'commander'
import { parseDemoConfig, runDemo } from '../manage/demo.ts'
import { boxSettings, helpLine } from '../manage/settings.ts'
import { stopSignals } from '../manage/stop-signals.ts'

export function demoCommand(): Command {
  return new Command('demo')
    .description('write a small, lively workload into a running box; Ctrl-C ends it')
    .option('--rate <number>', 'transactions per second (default: 8)')
    .option('--seconds <number>', 'how long (default: until Ctrl-C)')
    .option('--data <dir>', helpLine(boxSettings.data))
    .action(async (flags: Record<string, string | undefined>) => {
      const { stop, hurry } = stopSignals(process)
      hurry.addEventListener('abort', () => process.exit(130))
      await runDemo(parseDemoConfig(flags, process.env, process.cwd()), { signal: stop, say: (line) => process.stdout.write(`${line}\n`) })
    })
}

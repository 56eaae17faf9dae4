/** `beyond-pg tune`: the settings that a machine gets, as the file that is written or, with --explain, with their reasons. */
import { Command, Option } from 'commander'
import { BeyondError } from '../errors.ts'
import { readMachine } from '../manage/machine.ts'
import { renderSettings } from '../manage/postgres-config.ts'
import { boxSettings, helpLine, parseSettings } from '../manage/settings.ts'
import { fromEnvironment } from '../manage/settings-source.ts'
import { planTuning, settingsOf } from '../manage/tuning.ts'
import { tuningJson, type TuningQuestion, tuningText } from './format-tuning.ts'
import { Output } from './output.ts'
import type { Io } from './tail.ts'

type TuneFlags = {
  readonly explain?: true
  readonly json?: true
  readonly memory?: string
  readonly cpus?: string
  readonly tier?: TuningQuestion['tier']
  readonly ephemeral?: true
  readonly profile: TuningQuestion['profile']
  readonly volume?: string
}

export function tuneCommand(io: Pick<Io, 'stdout' | 'env'>): Command {
  return new Command('tune')
    .description('show how Postgres is tuned for a machine')
    .option('--explain', 'a table: value, reason, and whether a change needs a restart')
    .option('--json', 'the table as JSON')
    .option('--memory <size>', 'such as 4GB (default: what this machine and its cgroup give)')
    .option('--cpus <number>', 'such as 2 or 1.5 (default: those of this machine and its cgroup)')
    .addOption(new Option('--tier <tier>', helpLine(boxSettings.tier)).choices(['primary', 'replica', 'sink']))
    .option('--ephemeral', helpLine(boxSettings.ephemeral))
    .option('--volume <size>', 'size of the volume, such as 20GB (default: large enough)')
    .addOption(
      new Option('--profile <profile>', 'production: the machine is the box’s, as with boot; development: an eighth of it, as with start')
        .choices(['production', 'development'])
        .default('production'),
    )
    .action(async (flags: TuneFlags) => {
      const settings = parseSettings(fromEnvironment(io.env))
      const machine = readMachine({ memoryMb: settings.memoryMb })
      const memoryBytes = flags.memory === undefined ? machine.memoryBytes : parseSize('--memory', flags.memory)
      const cpus = flags.cpus === undefined ? machine.cpus : parseCpus(flags.cpus)
      const question: TuningQuestion = {
        memoryBytes,
        memoryIsGiven: flags.memory === undefined && machine.memoryIsGiven,
        cpus,
        tier: flags.tier ?? settings.tier,
        ephemeral: flags.ephemeral ?? settings.ephemeral,
        profile: flags.profile,
        volumeBytes: flags.volume === undefined ? undefined : parseSize('--volume', flags.volume),
      }
      const from = {
        memoryFrom: flags.memory === undefined ? machine.memoryFrom : '--memory',
        cpusFrom: flags.cpus === undefined ? machine.cpusFrom : '--cpus',
      }
      const tuning = planTuning(question)
      const text = flags.json
        ? tuningJson(question, from, tuning)
        : flags.explain
          ? tuningText(question, from, tuning)
          : renderSettings('From the memory and processors of this machine.', settingsOf(tuning))
      await new Output(io.stdout).write(text)
    })
}

const UNITS: Readonly<Record<string, number>> = { kB: 2 ** 10, MB: 2 ** 20, GB: 2 ** 30, TB: 2 ** 40 }

function parseSize(flag: string, text: string): number {
  const [, digits, unit = 'MB'] = /^(\d+(?:\.\d+)?)\s*(kB|MB|GB|TB)?$/.exec(text) ?? []
  const bytes = digits === undefined ? 0 : Math.floor(Number(digits) * UNITS[unit])
  if (bytes >= 64 * 2 ** 20 && bytes <= 2 ** 50) return bytes
  throw new BeyondError('BAD_ARGUMENT', `${flag} must be a size from 64MB to 1024TB, such as 512MB or 4GB, not ${JSON.stringify(text)}.`)
}

function parseCpus(text: string): number {
  const cpus = /^\d+(\.\d+)?$/.test(text) ? Number(text) : 0
  if (cpus > 0 && cpus <= 4096) return cpus
  throw new BeyondError('BAD_ARGUMENT', `--cpus must be a number up to 4096, such as 2 or 1.5, not ${JSON.stringify(text)}.`)
}

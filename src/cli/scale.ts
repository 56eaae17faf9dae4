/** `beyond-pg scale`: what the machine gives the box now, before and after, and what that changes. */
import { Command, Option } from 'commander'
import { exit } from '../errors.ts'
import { locateBox } from '../manage/locate-box.ts'
import { call, socketPath } from '../manage/rpc-client.ts'
import type { ScaleReport } from '../manage/scale.ts'
import type { BoxIo } from './box-commands.ts'
import { shownSize, table } from './format-tuning.ts'
import { Output } from './output.ts'
import { printable } from './terminal.ts'

type ScaleFlags = { readonly data: string; readonly dryRun?: true; readonly json?: true }

export function scaleCommand(io: Pick<BoxIo, 'stdout' | 'signal' | 'setExitCode'>): Command {
  return new Command('scale')
    .description('take what the machine gives now: grow the volume, tune Postgres anew; show before and after; exit code 3 when postponed, 1 when taken back')
    .addOption(new Option('--data <dir>', 'data directory of the box').env('BEYOND_PG_DATA').default('.beyond'))
    .option('--dry-run', 'only show what would change')
    .option('--json', 'as JSON')
    .action(async (flags: ScaleFlags) => {
      const options = { params: { dryRun: flags.dryRun === true }, deadlineMs: DEADLINE_MS, signal: io.signal() }
      const report = (await call(socketPath(locateBox(flags.data)), 'retune', options)) as ScaleReport
      await new Output(io.stdout).write(flags.json ? `${JSON.stringify(report, undefined, 2)}\n` : scaleText(report))
      io.setExitCode(exitCode(report))
    })
}

const DEADLINE_MS = 300_000
/** 2 GB, below which page tables are small anyway. */
const MANY_PAGES = 1024

function exitCode({ outcome }: ScaleReport): number {
  if (outcome === 'postponed') return exit.unavailable
  return outcome === 'refused' || outcome === 'rolled-back' ? exit.failed : exit.ok
}

/** Pure. */
export function scaleText({ outcome, before, after, changed, reason, stallMs, volume, hugePages }: ScaleReport): string {
  const machine = [
    ['', 'before', 'after'],
    ['memory', shownSize(before.memoryBytes), shownSize(after.memoryBytes)],
    ['CPUs', String(before.cpus), String(after.cpus)],
    ['volume', shownSize(volume.beforeBytes), shownSize(volume.afterBytes)],
  ]
  const settings = changed.map(({ name, from, to, restart }) => [name, from, to, restart ? 'restart' : 'reload'])
  const lines = [table(machine)]
  if (settings.length > 0) lines.push(table([['setting', 'before', 'after', 'change'], ...settings]))
  const said = [verdict(outcome, reason, stallMs)]
  if (volume.problem !== undefined) said.push(`The volume on ${volume.device} (${shownSize(volume.deviceBytes ?? 0)}) stays as it is: ${volume.problem}.`)
  if (hugePages.status === 'off' && hugePages.pages > MANY_PAGES) said.push(`Postgres would use huge pages if the kernel had them: sysctl vm.nr_hugepages=${hugePages.pages}`)
  return `${lines.join('\n')}\n${said.map((line) => `${printable(line)}\n`).join('')}`
}

function verdict(outcome: ScaleReport['outcome'], reason = '', stallMs = 0): string {
  switch (outcome) {
    case 'planned':
      return 'Nothing was done.'
    case 'unchanged':
      return 'Postgres is tuned for this machine already.'
    case 'reloaded':
      return 'Applied without a restart.'
    case 'restarted':
      return `Applied. Postgres was restarted; queries waited for ${stallMs} ms.`
    case 'postponed':
      return `Postponed: ${reason}. What needs no restart is applied; the rest is tried again by itself.`
    case 'refused':
      return `Refused, nothing has changed: ${reason}`
    case 'rolled-back':
      return `Taken back, since Postgres did not start with it: ${reason}. Queries waited for ${stallMs} ms.`
  }
}

/** The operator's commands: each asks the running box over its management socket, and says what it answered. */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { BeyondError, codeOf, exit } from '../errors.ts'
import { locateBox } from '../manage/locate-box.ts'
import { logFilter, tailLog } from '../manage/log-tail.ts'
import { identify, isAlive } from '../manage/process-identity.ts'
import { call, socketPath, stream } from '../manage/rpc-client.ts'
import type { BoxStatus, Health } from '../manage/status-facts.ts'
import { findingLines } from './box-findings.ts'
import { logLineText } from './box-log-text.ts'
import { Output } from './output.ts'
import { type ColorFlag, wantsColor } from './terminal.ts'

export type BoxIo = {
  readonly stdout: NodeJS.WriteStream
  readonly env: Readonly<Record<string, string | undefined>>
  readonly signal: () => AbortSignal
  /** What the process ends with when nothing is thrown. */
  readonly setExitCode: (code: number) => void
}

type DataFlag = { readonly data: string }
type JsonFlag = DataFlag & { readonly json?: true }

const WIDEST = 100
const GONE_MS = 120_000
const ENDED_MS = 10_000
const UPGRADED_MS = 60_000
const LOOK_AGAIN_MS = 50

export function addBoxCommands(program: Command, io: BoxIo): void {
  const output = (): Output => new Output(io.stdout)
  const command = (name: string, about: string): Command =>
    program.command(name).description(about).addOption(new Option('--data <dir>', 'data directory of the box').env('BEYOND_PG_DATA').default('.beyond'))
  /** Asks, and says the answer as one line of JSON or as a sentence. */
  const ask = (name: string, about: string, sentence: (answer: Answer) => string, params: (flags: Record<string, unknown>) => Record<string, unknown> = () => ({})): Command =>
    command(name, about)
      .option('--json', 'as JSON')
      .action(async (flags: JsonFlag & Record<string, unknown>) => {
        const answer = (await call(pathOf(flags), name, { params: params(flags), deadlineMs: 1_800_000, signal: io.signal() })) as Answer
        await output().write(flags.json ? `${JSON.stringify(answer)}\n` : `${sentence(answer)}\n`)
      })

  command('status', 'show what runs, what is protected, what needs attention; exit code 5 when something does not work')
    .option('--json', 'as JSON')
    .addOption(colorOption())
    .action(async (flags: JsonFlag & { color: ColorFlag }) => {
      const status = (await call(pathOf(flags), 'status', { deadlineMs: 15_000, signal: io.signal() })) as BoxStatus
      const { boxStatusText } = await import('./box-status-text.ts') // a probe does without
      const text = boxStatusText(status, { columns: Math.min(WIDEST, io.stdout.columns ?? WIDEST), color: wantsColor(flags.color, io.stdout, io.env) })
      await output().write(flags.json ? `${JSON.stringify(status)}\n` : text)
      io.setExitCode(exitCodeOf(status.health))
    })

  command('health', 'for probes: one line, exit code 0 when the box works, 3 when it does not answer, 5 when something does not work')
    .option('--json', 'as JSON')
    .action(async (flags: JsonFlag) => {
      const health = (await call(pathOf(flags), 'health', { deadlineMs: 10_000, signal: io.signal() })) as Health
      const lines = [health.verdict, ...findingLines(health.findings, WIDEST, false).filter((line) => line !== '')]
      await output().write(flags.json ? `${JSON.stringify(health)}\n` : `${lines.join('\n')}\n`)
      io.setExitCode(exitCodeOf(health))
    })

  command('metrics', 'print metrics in the text format of Prometheus').action(async (flags: DataFlag) => {
    const { text } = (await call(pathOf(flags), 'metrics', { deadlineMs: 15_000, signal: io.signal() })) as { text: string }
    await output().write(text)
  })

  ask('checkpoint', 'write everything that is in memory to disk now', ({ ms }) => `Done in ${String(ms)} ms.`)
  ask('reload', 'read the config files again; Postgres and PgBouncer keep running', reloadSentence)
  ask('pause', 'hold all queries of all clients back, when the running transactions have ended', ({ ms }) => `Paused after ${String(ms)} ms: clients wait until beyond-pg resume.`, ({ within }) => ({ withinMs: within }))
    .addOption(new Option('--within <seconds>', 'give up when transactions still run then').default(10_000, '10').argParser(seconds))
  ask('resume', 'let the queries go again', () => 'Queries go on.')
  ask('promote', 'make a replica a primary, when its primary is gone for good', ({ timeline, lsn }) => `This box is a primary now, on timeline ${String(timeline)}, at ${String(lsn)}. Before its next start, set BEYOND_PG_TIER to primary.`)

  command('shutdown', 'stop the box in order, and wait until it is gone').action(async (flags: DataFlag) => {
    const path = pathOf(flags)
    const { pid } = (await call(path, 'shutdown', { signal: io.signal() })) as { pid: number }
    const supervisor = identify(pid)
    await until(GONE_MS, 'The box is still stopping: beyond-pg logs says what it waits for.', io.signal(), () => call(path, 'health').then(() => false, (error: unknown) => codeOf(error) === 'UNREACHABLE'))
    // Its lock goes with its process, a moment later: the next start must not find it.
    if (supervisor) await until(ENDED_MS, `The box is stopped, but process ${pid} does not end.`, io.signal(), async () => !isAlive(supervisor))
    await output().write('The box is stopped.\n')
  })

  command('upgrade', 'start the program anew, as it lies on disk now; Postgres, PgBouncer and their clients notice nothing').action(async (flags: DataFlag) => {
    const path = pathOf(flags)
    const { startedAt } = (await call(path, 'upgrade', { signal: io.signal() })) as { startedAt: string }
    await until(UPGRADED_MS, 'The new program does not answer: beyond-pg logs says why.', io.signal(), async () => {
      const status = (await call(path, 'status', { signal: io.signal() }).catch(() => undefined)) as BoxStatus | undefined
      return status !== undefined && status.box.ready && status.box.startedAt !== startedAt
    })
    await output().write('The new program runs.\n')
  })

  command('logs', 'show the log of the box and of all that runs in it')
    .option('-f, --follow', 'go on as it grows; Ctrl-C ends it')
    .addOption(new Option('-n, --lines <number>', 'lines to begin with').default(100).argParser(lines))
    .option('--child <name>', 'only of this one: postgres, pgbouncer, cdc, box')
    .addOption(new Option('--level <level>', 'only from this level on').choices(['debug', 'info', 'warn', 'error']))
    .option('--json', 'as they are written, one JSON object per line')
    .addOption(colorOption())
    .action(async (flags: LogFlags) => {
      const out = output()
      const color = wantsColor(flags.color, io.stdout, io.env)
      const signal = AbortSignal.any([io.signal(), out.gone])
      await readLogs(flags, signal, (line) => out.write(flags.json ? `${line}\n` : `${logLineText(line, color)}\n`)).catch((error: unknown) => {
        if (!signal.aborted) throw error
      })
    })
}

type Answer = Readonly<Record<string, unknown>>
type LogFlags = JsonFlag & { readonly follow?: true; readonly lines: number; readonly child?: string; readonly level?: 'debug' | 'info' | 'warn' | 'error'; readonly color: ColorFlag }

/** From the box while it runs; from its file when it doesn't, which is when a log is needed most. */
async function readLogs({ data, follow, lines, child, level }: LogFlags, signal: AbortSignal, say: (line: string) => Promise<void>): Promise<void> {
  const root = locateBox(data)
  try {
    const params = { lines, follow: follow ?? false, ...(child === undefined ? {} : { child }), ...(level === undefined ? {} : { level }) }
    for await (const line of stream(socketPath(root), 'logs', { params, signal })) await say(String(line))
  } catch (error) {
    if (codeOf(error) !== 'UNREACHABLE' || follow) throw error
    await tailLog(join(root, 'log', 'beyond-pg.log'), { lines, follow: false, wanted: logFilter(child, level) }, say, signal)
  }
}

function pathOf({ data }: DataFlag): string {
  return socketPath(locateBox(data))
}

const exitCodeOf = ({ verdict }: Health): number => (verdict === 'unhealthy' ? exit.environment : exit.ok)

function reloadSentence({ pendingRestart, badSettings }: Answer): string {
  const waiting = pendingRestart as readonly string[]
  const bad = badSettings as readonly { file: string; line: number; error: string }[]
  return [
    'Reloaded.',
    ...(waiting.length === 0 ? [] : [`These wait for a restart of Postgres: ${waiting.join(', ')}.`]),
    ...bad.map(({ file, line, error }) => `Not in effect: ${file}:${line}: ${error}.`),
  ].join('\n')
}

const colorOption = (): Option => new Option('--color <when>', 'colours').choices(['auto', 'always', 'never']).default('auto')

function seconds(text: string): number {
  const value = Number(text)
  if (!/^\d+(\.\d+)?$/.test(text) || value <= 0 || value > 600) throw new InvalidArgumentError('Must be a number of seconds up to 600.')
  return Math.max(1, Math.round(value * 1000))
}

function lines(text: string): number {
  if (!/^\d{1,5}$/.test(text) || Number(text) > 10_000) throw new InvalidArgumentError('Must be a whole number up to 10000.')
  return Number(text)
}

async function until(withinMs: number, sentence: string, signal: AbortSignal, condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + withinMs
  while (!(await condition())) {
    if (performance.now() > deadline) throw new BeyondError('TIMEOUT', sentence)
    await sleep(LOOK_AGAIN_MS, undefined, { signal })
  }
}

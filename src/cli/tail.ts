/** `beyond-pg-cdc tail`: prints changes as they are committed. Flags to one object, a subscription, lines out. */
import type { Writable } from 'node:stream'
import { Command, InvalidArgumentError, Option } from 'commander'
import { BeyondError } from '../errors.ts'
import {
  connect,
  formatLsn,
  parsePosition,
  type ChangeEvent,
  type Operation,
  type Subscription,
  type SubscriptionState,
} from '../transport/client.ts'
import { parseIsoTime } from '../transport/client-options.ts'
import { ChangeFormatter, shownTime } from './format-change.ts'
import { jsonLine } from './format-json.ts'
import { Output } from './output.ts'
import { PositionSaver, readPositionFile } from './position-file.ts'
import { addServerOptions, connectOptions, explainUnreachable, type ServerFlags } from './server-options.ts'
import { renderLine, wantsColor, type ColorFlag } from './terminal.ts'

/** What a command needs of its process. */
export type Io = {
  readonly stdout: Writable & { readonly isTTY?: boolean; readonly columns?: number }
  readonly stderr: Writable & { readonly isTTY?: boolean }
  readonly env: { readonly [name: string]: string | undefined }
  /** Ctrl-C and its relatives. */
  readonly stop: AbortSignal
}

type TailFlags = ServerFlags & {
  readonly from?: From
  readonly consumer?: string
  readonly table: readonly string[]
  readonly operation: readonly Operation[]
  readonly limit?: number
  readonly untilNow?: true
  readonly positionFile?: string
  readonly transactions?: true
  readonly schemas?: true
  readonly json?: true
  readonly color: ColorFlag
}

type From = 'beginning' | 'now' | string | { readonly micros: bigint }

const OPERATIONS: readonly Operation[] = ['insert', 'update', 'delete', 'truncate', 'message']
/** How much of what was printed a killed process prints again. */
const SAVE_INTERVAL_MS = 200

export function tailCommand(io: Io): Command {
  const command = new Command('tail').description('print changes as they are committed, until Ctrl-C')
  return addServerOptions(command)
    .addOption(
      new Option('--from <where>', 'beginning, now (the default), a position, or a time (ISO 8601, UTC without a zone)').argParser(parseFrom),
    )
    .option('--consumer <name>', 'a durable consumer: the service remembers how far it is, and keeps the changes behind it')
    .addOption(
      new Option('--table <pattern>', 'only these tables: schema.table, with * and ?; can be repeated')
        .argParser(collect(tablePattern))
        .default([], 'all'),
    )
    .addOption(
      new Option('--operation <name>', 'only insert, update, delete, truncate or message; can be repeated')
        .argParser(collect(operation))
        .default([], 'all'),
    )
    .addOption(new Option('--limit <n>', 'end after so many changes').argParser(positive))
    .option('--until-now', 'end when everything is printed that was committed before the start')
    .option('--position-file <file>', 'keep the position in a file and go on there; --from counts only as long as there is none')
    .option('--transactions', 'print begin and commit, too')
    .option('--schemas', 'with --json: print the definition of a table before its first change and when it has changed')
    .option('--json', 'one JSON object a line; errors and states as JSON on standard error')
    .addOption(new Option('--color <when>', 'colours').choices(['auto', 'always', 'never']).default('auto'))
    .action((flags: TailFlags) => tail(flags, io))
}

function parseFrom(text: string): From {
  if (text === 'beginning' || text === 'now') return text
  const micros = parseIsoTime(text)
  if (micros !== undefined) return { micros }
  try {
    parsePosition(text)
    return text
  } catch (error) {
    throw new InvalidArgumentError(
      `${(error as BeyondError).message} It may also be beginning, now or a time such as 2026-11-22T09:40:00Z.`,
    )
  }
}

const collect =
  <T>(parse: (text: string) => T) =>
  (text: string, before: readonly T[]): readonly T[] => [...before, parse(text)]

/** A name without a schema means that table in any schema. */
function tablePattern(text: string): string {
  if (text === '') throw new InvalidArgumentError('A pattern looks like public.orders or public.*')
  return text.includes('.') ? text : `*.${text}`
}

function operation(text: string): Operation {
  const found = OPERATIONS.find((name) => name === text)
  if (!found) throw new InvalidArgumentError(`Use one of ${OPERATIONS.join(', ')}.`)
  return found
}

function positive(text: string): number {
  const value = Number(text)
  if (!/^\d{1,15}$/.test(text) || value < 1) throw new InvalidArgumentError('Must be a whole number from 1 on.')
  return value
}

const isChange = (event: ChangeEvent): boolean => OPERATIONS.some((name) => name === event.kind)

function hasReached(event: ChangeEvent, target: bigint | undefined): boolean {
  if (target === undefined) return false
  if (event.kind === 'commit') return event.transaction.lsn >= target
  return event.kind === 'progress' && parsePosition(event.position).after.lsn >= target
}

async function tail(flags: TailFlags, io: Io): Promise<void> {
  // From here on Ctrl-C is ours.
  const { stop } = io
  if (flags.consumer !== undefined && flags.positionFile !== undefined)
    throw new BeyondError('BAD_ARGUMENT', 'A consumer keeps its position at the service: use --consumer or --position-file, not both.')
  const saved = flags.positionFile === undefined ? undefined : await readPositionFile(flags.positionFile)
  const from = saved?.position ?? flags.from
  const options = await connectOptions(flags, 'tail')
  const output = new Output(io.stdout)
  const done = new AbortController()
  const saver = flags.positionFile === undefined ? undefined : new PositionSaver(flags.positionFile, SAVE_INTERVAL_MS)
  const print = printer(flags, io)
  const notices = new Notices(flags, io, options.server)
  const target: { lsn?: bigint } = {}

  await using client = connect(options)
  const changes: Subscription = client.subscribe({
    ...(from === undefined ? {} : { from }),
    ...(saved ? { checkpoints: saved.checkpoints } : {}),
    ...(flags.consumer === undefined ? {} : { consumer: flags.consumer }),
    tables: flags.table,
    operations: flags.operation,
    // Nothing counts as seen before it has been printed.
    acknowledge: 'manual',
    progress: true,
    signal: AbortSignal.any([stop, output.gone, done.signal]),
    onState: (state) => {
      if (state.status === 'streaming' && flags.untilNow && target.lsn === undefined) {
        target.lsn = state.welcome.head.lsn
        if (state.welcome.start.lsn >= target.lsn) done.abort()
      }
      notices.onState(state, changes?.position)
    },
  })

  let left = flags.limit ?? Infinity
  let position: string | undefined
  try {
    for await (const batch of changes.batches()) {
      let text = ''
      for (const event of batch) {
        text += print(event)
        position = event.position
        if (isChange(event)) left--
        if (left === 0 || hasReached(event, target.lsn)) done.abort()
        if (done.signal.aborted) break
      }
      await output.write(text)
      if (output.gone.aborted || position === undefined) break
      if (flags.consumer !== undefined) changes.acknowledge(position)
      const at = position
      await saver?.reached(() => ({ position: at, checkpoints: changes.checkpoints }))
      if (done.signal.aborted) break
    }
  } catch (error) {
    throw notices.hasStreamed ? error : explainUnreachable(error, flags, options.server)
  } finally {
    await saver?.flush()
  }
  notices.onEnd(position ?? changes.position)
}

function printer(flags: TailFlags, { stdout, env }: Io): (event: ChangeEvent) => string {
  if (flags.json)
    return (event) => {
      if (event.kind === 'progress') return ''
      if ((event.kind === 'begin' || event.kind === 'commit') && !flags.transactions) return ''
      if (event.kind === 'schema' && !flags.schemas) return ''
      return `${jsonLine(event)}\n`
    }
  const options = { color: wantsColor(flags.color, stdout, env), columns: Infinity, utc: false }
  const today = shownTime({ time: new Date() }, options.utc).date
  // The width may change while we run.
  const columns = () => (stdout.isTTY ? (stdout.columns ?? 80) : Infinity)
  const formatter = new ChangeFormatter({ ...options, columns }, today)
  return (event) => formatter.lines(event, flags.transactions === true)
}

/** What happens to the connection, on standard error: a line for people, or JSON. */
class Notices {
  readonly #flags: TailFlags
  readonly #io: Io
  readonly #server: string
  #lost = false
  hasStreamed = false

  constructor(flags: TailFlags, io: Io, server: string) {
    this.#flags = flags
    this.#io = io
    this.#server = server
  }

  onState(state: SubscriptionState, position: string | undefined): void {
    if (state.status === 'streaming') {
      this.hasStreamed = true
      const { database, start } = state.welcome
      const after = formatLsn(start.lsn)
      if (!state.resumed)
        this.#say(`streaming ${database} from ${this.#server}, after ${after}`, { status: 'streaming', database, start: after })
      else this.#say('connected again', { status: 'streaming', database, start: after, resumed: true })
      this.#lost = false
    }
    // Once per outage; attempts go on in silence.
    if (state.status === 'waiting' && !this.#lost) {
      this.#lost = true
      const { code, message } = state.error
      const where = position === undefined ? '' : `, resuming after ${position.replace(/:[0-9a-f]{64}/, '')}`
      this.#say(
        position === undefined ? `waiting for ${this.#server}: ${message}` : `connection lost${where}: ${message}`,
        { status: 'waiting', code, message, ...(position ? { position } : {}) },
      )
    }
  }

  onEnd(position: string | undefined): void {
    if (position !== undefined && this.#flags.consumer === undefined && this.#flags.positionFile === undefined && this.#io.stop.aborted)
      this.#say(`to go on here: --from '${position}'`, { status: 'ended', position })
  }

  #say(text: string, fact: Record<string, unknown>): void {
    const { stderr, env } = this.#io
    const line = this.#flags.json
      ? JSON.stringify({ state: fact })
      : renderLine([[`beyond-pg-cdc: ${text}`, 'dim']], { columns: Infinity, color: wantsColor(this.#flags.color, stderr, env) })
    stderr.write(`${line}\n`)
  }
}

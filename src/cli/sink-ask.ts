/** `beyond-pg-sink status`, `list`, `verify` and `pin`: what a sink says, for people or as JSON. */
import { Command } from 'commander'
import { BeyondError } from '../errors.ts'
import type { pinJson, segmentJson, statusJson, verifyJson } from '../sink/http-json.ts'
import { SinkClient } from '../sink/fetch-client.ts'
import { Output } from './output.ts'
import { formatHistory, formatPins, formatSegments, formatSinkStatus, formatVerify } from './sink-format.ts'
import { addSinkOptions, oneSink, stopSignal, type SinkFlags } from './sink-options.ts'

export type StatusAnswer = ReturnType<typeof statusJson>
export type SegmentAnswer = ReturnType<typeof segmentJson>
export type HistoryAnswer = { readonly name: string; readonly timeline: number; readonly bytes: number }
export type PinAnswer = ReturnType<typeof pinJson>
export type VerifyAnswer = ReturnType<typeof verifyJson>

type Flags = SinkFlags & { readonly json?: true }

/** A sink may hold terabytes. */
const VERIFY_MS = 24 * 3_600_000

const command = (name: string, description: string): Command => addSinkOptions(new Command(name).description(description)).option('--json', 'as JSON')

const print = (text: string): Promise<void> => new Output(process.stdout).write(text)

async function asking<T>(flags: Flags, ask: (client: SinkClient, signal: AbortSignal) => Promise<T>): Promise<T> {
  await using client = new SinkClient(await oneSink(flags))
  return await ask(client, stopSignal())
}

export const sinkStatusCommand = (): Command =>
  command('status', 'show what the sink does, how far it has come and what it keeps').action(async (flags: Flags) => {
    const status = (await asking(flags, (client, signal) => client.call('GET', '/v1/status', { signal }))) as StatusAnswer
    await print(flags.json ? `${JSON.stringify(status)}\n` : formatSinkStatus(status))
  })

export const sinkListCommand = (): Command =>
  command('list', 'list the segments and histories that are held').action(async (flags: Flags) => {
    const { segments, histories } = await asking(flags, async (client, signal) => {
      const segments: SegmentAnswer[] = []
      for (let after: string | undefined = ''; after !== undefined; ) {
        const page = (await client.call('GET', `/v1/segments${after ? `?after=${after}` : ''}`, { signal })) as { segments: SegmentAnswer[]; next?: string }
        segments.push(...page.segments)
        after = page.next
      }
      const { histories } = (await client.call('GET', '/v1/histories', { signal })) as { histories: HistoryAnswer[] }
      return { segments, histories }
    })
    await print(flags.json ? `${JSON.stringify({ segments, histories })}\n` : formatSegments(segments) + histories.map(formatHistory).join(''))
  })

export const sinkVerifyCommand = (): Command =>
  command('verify', 'let the sink read everything that it keeps, and say what is wrong or missing').action(async (flags: Flags) => {
    const report = (await asking(flags, (client, signal) => client.call('POST', '/v1/verify', { signal, patienceMs: VERIFY_MS }))) as VerifyAnswer
    await print(flags.json ? `${JSON.stringify(report)}\n` : formatVerify(report))
    if (report.faults.length > 0) throw new BeyondError('WAL_CORRUPT', `${report.faults.length} of the files that the sink keeps are not right.`)
  })

export const sinkPinCommand = (): Command =>
  command('pin', 'list what keeps WAL from being removed; with a name: set or remove a pin')
    .argument('[name]', 'of the pin')
    .argument('[lsn]', 'WAL from here on is kept')
    .option('--expires <time>', 'the pin is gone from then on, such as 2030-01-31T12:00:00Z')
    .option('--remove', 'remove it')
    .action(async (name: string | undefined, lsn: string | undefined, flags: Flags & { readonly expires?: string; readonly remove?: true }) => {
      if (name !== undefined && !/^[a-z0-9._-]{1,63}$/.test(name)) throw new BeyondError('BAD_ARGUMENT', "A pin's name is of a-z, 0-9, '.', '_' and '-', at most 63 of them.")
      if (name !== undefined && (lsn === undefined) === (flags.remove === undefined)) throw new BeyondError('BAD_ARGUMENT', 'Give an LSN to set a pin, or --remove.')
      await asking(flags, async (client, signal) => {
        if (name !== undefined && flags.remove) await client.call('DELETE', `/v1/pins/${name}`, { signal })
        else if (name !== undefined) await client.call('PUT', `/v1/pins/${name}`, { signal, body: { lsn, expiresAt: flags.expires } })
        const { pins } = (await client.call('GET', '/v1/pins', { signal })) as { pins: PinAnswer[] }
        await print(flags.json ? `${JSON.stringify({ pins })}\n` : formatPins(pins))
      })
    })

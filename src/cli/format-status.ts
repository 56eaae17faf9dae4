/** A status for people, within 100 columns, and as JSON. Pure. */
import { formatLsn, type Position, type Status, type SubscriberStatus } from '../transport/client.ts'
import { formatTransactionPosition } from '../transport/position.ts'
import { count } from './format-change.ts'
import { isoTime } from './format-json.ts'
import { displayWidth, fit, printable, renderLine, type Piece } from './terminal.ts'

const COLUMNS = 100

export function jsonStatus(status: Status): string {
  return toJson({
    server: status.server,
    startedAt: isoTime(status.startedAt),
    state: status.state,
    error: status.error,
    history: uuid(status.history),
    systemId: status.systemId,
    database: status.database,
    slot: {
      ...status.slot,
      confirmedLsn: formatLsn(status.slot.confirmedLsn),
      receivedLsn: formatLsn(status.slot.receivedLsn),
      walLsn: formatLsn(status.slot.walLsn),
    },
    log: {
      ...status.log,
      oldest: formatTransactionPosition(status.log.oldest),
      head: formatTransactionPosition(status.log.head),
      headTime: status.log.headTime === null ? null : isoTime(status.log.headTime),
    },
    subscribers: status.subscribers.map((subscriber) => ({
      ...subscriber,
      sent: subscriber.sent && formatTransactionPosition(subscriber.sent),
      acknowledged: subscriber.acknowledged && formatTransactionPosition(subscriber.acknowledged),
    })),
  })
}

type Json = string | number | bigint | boolean | null | readonly Json[] | { readonly [name: string]: Json }

/** JSON with bigints as numbers, all their digits. */
export function toJson(value: Json): string {
  if (typeof value === 'bigint') return value.toString()
  if (Array.isArray(value)) return `[${value.map(toJson).join(',')}]`
  if (typeof value === 'object' && value !== null)
    return `{${Object.entries(value)
      .map(([name, member]) => `${JSON.stringify(name)}:${toJson(member as Json)}`)
      .join(',')}}`
  return JSON.stringify(value)
}

export function uuid(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB']

export function shownBytes(bytes: bigint): string {
  let value = Number(bytes)
  let unit = 0
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`
}

/** `850 ms`, `3.2 s`, `4 min`, `2 h 5 min`, `3 d 4 h`. */
export function shownDuration(ms: number): string {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`
  const seconds = ms / 1000
  if (seconds < 60) return `${seconds.toFixed(1)} s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return `${minutes} min`
  const hours = Math.floor(minutes / 60)
  return hours < 24 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`
}

/** `nowMs`: this machine's clock, milliseconds since 1970. */
export function statusText(status: Status, nowMs: number, color: boolean): string {
  const { slot, log } = status
  const ago = (micros: bigint): string => shownDuration(nowMs - Number(micros / 1000n))
  const state: Piece = [printable(status.state), status.state === 'streaming' ? 'green' : 'yellow']
  const confirmed = `confirmed ${formatLsn(slot.confirmedLsn)}  read ${formatLsn(slot.receivedLsn)}`
  const logged = `${count(log.transactions, 'transaction')}, ${count(log.changes, 'change')}`
  const newest = log.headTime === null ? '' : `, committed ${ago(log.headTime)} ago`
  const rows: (readonly [string, readonly Piece[]])[] = [
    ['service', [[printable(status.server), 'bold'], ['  '], state, [`  up ${ago(status.startedAt)}`]]],
    ...(status.error === null ? [] : [['', [[printable(status.error), 'red']]] as const]),
    ['database', [[`${printable(status.database)}  system ${printable(status.systemId)}`]]],
    ['history', [[uuid(status.history)]]],
    ['slot', [[`${printable(slot.name)}  publication ${printable(slot.publication)}`]]],
    ['', [[`${confirmed}  end of WAL ${formatLsn(slot.walLsn)}  behind ${shownBytes(slot.lagBytes)}`]]],
    ['log', [[`${shownBytes(log.bytes)} in ${count(log.segments, 'file')}  ${logged} since start`]]],
    ['', [[`from ${formatLsn(log.oldest.lsn)} to ${formatLsn(log.head.lsn)}${newest}`]]],
  ]
  const lines = rows.map(([label, pieces]) => renderLine([[label.padEnd(10), 'dim'], ...pieces], { columns: COLUMNS, color }))
  return `${[...lines, '', ...subscriberTable(status.subscribers, color)].join('\n')}\n`
}

type TableColumn = {
  readonly title: string
  /** Most columns that it takes. */
  readonly max: number
  readonly right?: true
  readonly cell: (subscriber: SubscriberStatus) => string
}

const lsnOf = (position: Position | null): string => (position === null ? '-' : formatLsn(position.lsn))
const columns: readonly TableColumn[] = [
  { title: 'ID', max: 4, right: true, cell: ({ id, connected }) => (connected ? String(id) : '-') },
  { title: 'CONSUMER', max: 12, cell: ({ consumer }) => consumer ?? '-' },
  { title: 'CLIENT', max: 20, cell: ({ client, peer }) => (client === '' ? peer || 'away' : client) },
  { title: 'ADDRESS', max: 21, cell: ({ address }) => (address === '' ? '-' : address) },
  { title: 'ACKNOWLEDGED', max: 12, cell: ({ acknowledged, sent }) => lsnOf(acknowledged ?? sent) },
  { title: 'LAG', max: 9, right: true, cell: ({ lagBytes }) => shownBytes(lagBytes) },
  { title: 'TIME', max: 9, right: true, cell: ({ lagMs }) => shownDuration(Number(lagMs)) },
]

function subscriberTable(subscribers: readonly SubscriberStatus[], color: boolean): string[] {
  if (subscribers.length === 0) return [renderLine([['no subscribers', 'dim']], { columns: COLUMNS, color })]
  const cells = subscribers.map((subscriber) => columns.map(({ cell, max }) => fit(printable(cell(subscriber)), max)))
  const widths = columns.map(({ title }, i) => Math.max(title.length, ...cells.map((row) => displayWidth(row[i]))))
  const line = (row: readonly string[]): string =>
    row
      .map((text, i) => {
        const gap = ' '.repeat(widths[i] - displayWidth(text))
        return columns[i].right ? gap + text : text + gap
      })
      .join('  ')
      .trimEnd()
  const head = renderLine([[line(columns.map(({ title }) => title)), 'dim']], { columns: COLUMNS, color })
  return [head, ...cells.map((row) => line(row))]
}

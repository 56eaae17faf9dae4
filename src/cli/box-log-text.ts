/** A line of a box's log, for people. Pure. */
import { type Piece, printable, renderLine, type Style } from './terminal.ts'

const LEVELS: Readonly<Record<number, readonly [string, Style]>> = {
  20: ['debug', 'dim'],
  30: ['', 'plain'],
  40: ['warning', 'yellow'],
  50: ['ERROR', 'red'],
  60: ['FATAL', 'red'],
}
const SHOWN = new Set(['level', 'time', 'msg', 'child', 'component', 'err', 'pid', 'hostname'])

export function logLineText(line: string, color: boolean): string {
  let event: Record<string, unknown>
  try {
    event = JSON.parse(line) as Record<string, unknown>
  } catch {
    return printable(line) // half a line, of a disk that was full
  }
  const { level, time, msg, child, err } = event
  const [word, style] = LEVELS[Number(level)] ?? ['', 'plain']
  const clock = typeof time === 'number' ? new Date(time).toISOString().replace('T', ' ').slice(0, 19) : ''
  const error = (err as { message?: string } | undefined)?.message
  const fields = Object.entries(event).flatMap(([name, value]) => (SHOWN.has(name) || value === undefined ? [] : [`${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`]))
  const pieces: Piece[] = [
    [`${clock}  `, 'dim'],
    [`${printable(String(child ?? 'box')).padEnd(11)} `],
    ...(word === '' ? [] : [[`${word} `, style] as const]),
    [printable(`${String(msg ?? '')}${error === undefined ? '' : `: ${error}`}`)],
    ...(fields.length === 0 ? [] : [[`  ${printable(fields.join(' '))}`, 'dim'] as const]),
  ]
  return renderLine(pieces, { columns: Infinity, color })
}

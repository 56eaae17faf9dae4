/** What is wrong with a box and what to do, as lines. Pure. */
import type { Finding } from '../manage/status-facts.ts'
import { displayWidth, fit, type Piece, printable, renderLine, type Style } from './terminal.ts'

/** Columns of the labels at the left. */
export const LABEL = 11

/** Each finding with what to do, wrapped: nothing of it is cut off. */
export function findingLines(findings: readonly Finding[], columns: number, color: boolean): string[] {
  return findings.flatMap(({ level, text, todo }) => {
    const style: Style = level === 'problem' ? 'red' : 'yellow'
    const label = level === 'problem' ? 'PROBLEM' : 'warning'
    const width = Math.max(20, columns - LABEL)
    const what = wrap(printable(text), width).map((line, at): Piece[] => [[(at === 0 ? label : '').padEnd(LABEL), style], [line]])
    const how = wrap(`→ ${printable(todo)}`, width).map((line, at): Piece[] => [[''.padEnd(LABEL)], [`${at === 0 ? '' : '  '}${line}`, 'bold']])
    return ['', ...[...what, ...how].map((pieces) => renderLine(pieces, { columns, color }).trimEnd())]
  })
}

/** Words into lines; a word that is too long is cut into pieces. */
function wrap(text: string, columns: number): string[] {
  const lines: string[] = []
  let line = ''
  for (let word of text.split(' ')) {
    while (displayWidth(word) > columns) {
      const piece = fit(word, columns + 1).slice(0, columns)
      if (line !== '') lines.push(line)
      lines.push(piece)
      line = ''
      word = word.slice(piece.length)
    }
    const longer = line === '' ? word : `${line} ${word}`
    if (displayWidth(longer) <= columns) line = longer
    else {
      lines.push(line)
      line = word
    }
  }
  return line === '' ? lines : [...lines, line]
}

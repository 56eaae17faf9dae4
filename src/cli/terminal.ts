/** Text on a terminal: colours, display width, and nothing in it that the terminal would obey. Pure. */

export type Style = 'plain' | 'dim' | 'bold' | 'red' | 'green' | 'yellow' | 'cyan' | 'magenta'
/** A piece of a line; the text is printable. */
export type Piece = readonly [text: string, style?: Style]

const ESCAPES: Record<Style, string> = {
  plain: '',
  dim: '\x1b[2m',
  bold: '\x1b[1m',
  red: '\x1b[31m',
  green: '\x1b[32m',
  yellow: '\x1b[33m',
  cyan: '\x1b[36m',
  magenta: '\x1b[35m',
}
const RESET = '\x1b[0m'

/** C0 and C1 controls, line and paragraph separators, and what turns the direction of text around. */
// oxlint-disable-next-line no-control-regex
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]|\p{Surrogate}/gu
const SHORT: Record<string, string> = { '\n': '\\n', '\r': '\\r', '\t': '\\t', '\x1b': '\\e' }

/** Makes what a terminal would act on visible instead. */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, (char) => SHORT[char] ?? `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

const ZERO_WIDTH = /^[\p{Mn}\p{Me}\p{Cf}]$/u
/** First and last code points of what takes two columns (Unicode's East Asian Width W and F, emoji), roughly. */
const WIDE: readonly (readonly [number, number])[] = [
  [0x1100, 0x115f],
  [0x2e80, 0x303e],
  [0x3041, 0x4dbf],
  [0x4e00, 0xa4cf],
  [0xac00, 0xd7a3],
  [0xf900, 0xfaff],
  [0xfe30, 0xfe6f],
  [0xff00, 0xff60],
  [0xffe0, 0xffe6],
  [0x1f300, 0x1f64f],
  [0x1f680, 0x1f6ff],
  [0x1f900, 0x1f9ff],
  [0x20000, 0x3fffd],
]

function charWidth(char: string): number {
  const code = char.codePointAt(0) as number
  if (code < 0x300) return 1
  if (ZERO_WIDTH.test(char)) return 0
  return code >= 0x1100 && WIDE.some(([first, last]) => code >= first && code <= last) ? 2 : 1
}

/** Columns that a printable text takes. */
export function displayWidth(text: string): number {
  let width = 0
  for (const char of text) width += charWidth(char)
  return width
}

/** Cuts a printable text to so many columns, with an ellipsis where something is missing. */
export function fit(text: string, columns: number): string {
  // Each character is at least one unit, and few take no column: a long text needs no measuring.
  if (text.length <= columns && displayWidth(text) <= columns) return text
  if (columns < 1) return ''
  let cut = ''
  let width = 0
  for (const char of text) {
    const next = width + charWidth(char)
    if (next > columns - 1) return displayWidth(text) <= columns ? text : `${cut}…`
    cut += char
    width = next
  }
  return text
}

/** One line of pieces, cut to `columns` (Infinity: as long as it is), coloured when `color` is set. */
export function renderLine(pieces: readonly Piece[], options: { readonly columns: number; readonly color: boolean }): string {
  let left = options.columns
  let line = ''
  for (const [whole, style = 'plain'] of pieces) {
    const text = left === Infinity ? whole : fit(whole, left)
    if (text !== '') line += options.color && style !== 'plain' ? `${ESCAPES[style]}${text}${RESET}` : text
    if (left === Infinity) continue
    left -= displayWidth(text)
    if (text !== whole || left <= 0) break
  }
  return line
}

export type ColorFlag = 'auto' | 'always' | 'never'

/** https://no-color.org : any value but the empty one turns colours off. */
export function wantsColor(
  flag: ColorFlag,
  stream: { readonly isTTY?: boolean | undefined },
  env: { readonly [name: string]: string | undefined },
): boolean {
  if (flag !== 'auto') return flag === 'always'
  return stream.isTTY === true && !env['NO_COLOR'] && env['TERM'] !== 'dumb'
}

/**
 * A report as one SVG file, legible on light and on dark pages: colours follow `prefers-color-scheme`, and the picture brings its own
 * background. Pure.
 */
import { summarizeFanOut, summarizeThroughput, type Report } from './report.ts'

const WIDTH = 960
const PANEL_LEFT = 210
const PANEL_RIGHT = WIDTH - 130
const BAR = 18
const GAP = 8

const STYLE = `
  .page { fill: #ffffff } text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-size: 20px; font-weight: 600 } .head { font-size: 15px; font-weight: 600 } .quiet { fill: #57606a; font-size: 12px }
  .grid { stroke: #d0d7de; stroke-width: 1 } .axis { stroke: #57606a; stroke-width: 1 }
  .ours { fill: #0969da } .raw { fill: #8c959f } .peer { fill: #bf8700 } .line { stroke-width: 2 }
  .line.ours { stroke: #0969da; fill: none } .line.peer { stroke: #bf8700; fill: none }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } text { fill: #e6edf3 } .quiet { fill: #9198a1 } .grid { stroke: #30363d } .axis { stroke: #9198a1 }
    .ours { fill: #4493f8 } .raw { fill: #6e7681 } .peer { fill: #d29922 } .line.ours { stroke: #4493f8; fill: none } .line.peer { stroke: #d29922; fill: none }
  }`

const COLOUR: Readonly<Record<string, string>> = { 'beyond-pg': 'ours', pg_recvlogical: 'raw', 'pg-logical-replication': 'peer' }

type Panel = { readonly svg: string; readonly height: number }
type Bar = { readonly label: string; readonly colour: string; readonly value: number; readonly shown: string }
type Group = { readonly title: string; readonly bars: readonly Bar[] }

export function drawReport(report: Report): string {
  const { machine } = report
  const panels = [throughputPanel(report), cpuPanel(report), latencyPanel(report), fanOutPanel(report)].filter((panel) => panel !== undefined)
  let y = 96
  const placed = panels.map(({ svg, height }) => {
    const group = `<g transform="translate(0 ${y})">${svg}</g>`
    y += height + 36
    return group
  })
  const subtitle = `${machine.cpus} CPUs (${machine.model}), Node ${machine.node}; 16 KB become durable in ${machine.syncMilliseconds.toFixed(2)} ms; medians of interleaved repetitions`
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y}" width="${WIDTH}" height="${y}" role="img" aria-label="Benchmarks of the change path">
<style>${STYLE}</style>
<rect class="page" width="${WIDTH}" height="${y}"/>
${text(24, 38, 'The change path: slot → durable log → QUIC → decoded rows', 'title')}
${text(24, 60, subtitle, 'quiet')}
${placed.join('\n')}
</svg>
`
}

function throughputPanel(report: Report): Panel | undefined {
  if (report.throughput.length === 0) return undefined
  const summaries = summarizeThroughput(report.throughput)
  return barPanel('Throughput, thousand rows per second: five small columns, from WAL that was there already', byShape(summaries, (one) => ({
    label: one.reader,
    colour: COLOUR[one.reader],
    value: one.rowsPerSecond / 1000,
    shown: `${(one.rowsPerSecond / 1000).toFixed(0)} k  (${one.ratio.toFixed(2)} ×)`,
  })))
}

function cpuPanel(report: Report): Panel | undefined {
  if (report.throughput.length === 0) return undefined
  const summaries = summarizeThroughput(report.throughput)
  return barPanel('CPU of the reading process, seconds per million rows (of beyond-pg: the service, without the subscriber)', byShape(summaries, (one) => ({
    label: one.reader,
    colour: COLOUR[one.reader],
    value: one.readerCpu,
    shown: `${one.readerCpu.toFixed(1)} s`,
  })))
}

function byShape<T extends { readonly rowsPerTransaction: number }>(all: readonly T[], bar: (one: T) => Bar): Group[] {
  return [...new Set(all.map((one) => one.rowsPerTransaction))].map((rows) => ({
    title: rows === 1 ? '1 row per transaction' : `${rows.toLocaleString('en')} rows per transaction`,
    bars: all.filter((one) => one.rowsPerTransaction === rows).map(bar),
  }))
}

function fanOutPanel(report: Report): Panel | undefined {
  if (report.fanOut.length === 0) return undefined
  const bars = summarizeFanOut(report.fanOut).map((one) => ({
    label: one.subscribers === 1 ? '1 subscriber' : `${one.subscribers} subscribers`,
    colour: 'ours',
    value: one.rowsPerSecond / 1000,
    shown: `${(one.rowsPerSecond / 1000).toFixed(0)} k  (${one.megabytesPerSecond.toFixed(0)} MB/s)`,
  }))
  return barPanel('Fan-out, thousand rows per second to all subscribers together: a log that is there', [{ title: '', bars }])
}

function barPanel(title: string, groups: readonly Group[]): Panel {
  const max = Math.max(...groups.flatMap(({ bars }) => bars.map(({ value }) => value)))
  const step = niceStep(max / 5)
  const end = Math.ceil(max / step) * step
  const x = (value: number): number => PANEL_LEFT + (value / end) * (PANEL_RIGHT - PANEL_LEFT)
  const parts: string[] = []
  let y = 16
  for (const { title: name, bars } of groups) {
    if (name !== '') {
      parts.push(text(24, y + 14, name, 'quiet'))
      y += 24
    }
    for (const { label, colour, value, shown } of bars) {
      parts.push(text(PANEL_LEFT - 10, y + 14, label, '', 'end'))
      parts.push(`<rect class="${colour}" x="${PANEL_LEFT}" y="${y}" width="${(x(value) - PANEL_LEFT).toFixed(1)}" height="${BAR}" rx="2"/>`)
      parts.push(text(x(value) + 8, y + 14, shown, ''))
      y += BAR + GAP
    }
    y += 6
  }
  const grid: string[] = []
  for (let value = 0; value <= end + step / 2; value += step) {
    grid.push(`<line class="${value === 0 ? 'axis' : 'grid'}" x1="${x(value).toFixed(1)}" x2="${x(value).toFixed(1)}" y1="14" y2="${y}"/>`)
    grid.push(text(x(value), y + 16, number(value), 'quiet', 'middle'))
  }
  return { svg: [text(24, 0, title, 'head'), ...grid, ...parts].join('\n'), height: y + 20 }
}

/** Quantiles from left to right, milliseconds upwards on a logarithmic axis. */
function latencyPanel(report: Report): Panel | undefined {
  if (report.latency.length === 0) return undefined
  const names = ['p50', 'p99', 'p99.9', 'max']
  const rates = [...new Set(report.latency.map((one) => one.perSecond))]
  const top = 50
  const bottom = 230
  const all = report.latency.flatMap(({ fromSend: { p50, max } }) => [p50, max])
  // Room for the label below the lowest point.
  const low = Math.floor(Math.log10(Math.min(...all) * 0.6))
  const high = Math.ceil(Math.log10(Math.max(...all)))
  const y = (ms: number): number => bottom - ((Math.log10(ms) - low) / (high - low)) * (bottom - top)
  const parts = [text(24, 0, 'Latency, milliseconds (logarithmic): from sending COMMIT to the row in another process', 'head')]
  const panelWidth = (WIDTH - 80 - 24) / rates.length
  for (const [index, rate] of rates.entries()) {
    const left = 80 + index * panelWidth
    const right = left + panelWidth - 50
    const x = (column: number): number => left + 40 + (column * (right - left - 80)) / (names.length - 1)
    parts.push(text((left + right) / 2, 28, `${rate.toLocaleString('en')} commits per second`, 'quiet', 'middle'))
    for (let power = low; power <= high; power++) {
      parts.push(`<line class="${power === low ? 'axis' : 'grid'}" x1="${left}" x2="${right}" y1="${y(10 ** power).toFixed(1)}" y2="${y(10 ** power).toFixed(1)}"/>`)
      parts.push(text(left - 8, y(10 ** power) + 4, `${number(10 ** power)} ms`, 'quiet', 'end'))
    }
    for (const [column, name] of names.entries()) parts.push(text(x(column), bottom + 18, name, 'quiet', 'middle'))
    const here = report.latency.filter((one) => one.perSecond === rate)
    for (const one of here) {
      const { p50, p99, p999, max } = one.fromSend
      const values = [p50, p99, p999, max]
      const colour = COLOUR[one.reader]
      parts.push(`<polyline class="line ${colour}" points="${values.map((value, column) => `${x(column).toFixed(1)},${y(value).toFixed(1)}`).join(' ')}"/>`)
      for (const [column, value] of values.entries()) {
        const others = here.filter((other) => other !== one).map(({ fromSend }) => [fromSend.p50, fromSend.p99, fromSend.p999, fromSend.max][column])
        const below = others.some((other) => other > value) && y(value) < bottom - 24
        parts.push(`<circle class="${colour}" cx="${x(column).toFixed(1)}" cy="${y(value).toFixed(1)}" r="4"/>`)
        parts.push(text(x(column), y(value) + (below ? 18 : -9), number(value), 'quiet', 'middle'))
      }
    }
  }
  const legend = bottom + 40
  for (const [index, name] of ['beyond-pg', 'pg-logical-replication'].entries()) {
    const left = 80 + index * 330
    parts.push(`<circle class="${COLOUR[name]}" cx="${left}" cy="${legend - 4}" r="5"/>`)
    parts.push(text(left + 12, legend, name === 'beyond-pg' ? 'beyond-pg: durable log and QUIC included' : `${name}: straight from the slot, nothing stored`, 'quiet'))
  }
  return { svg: parts.join('\n'), height: legend + 6 }
}

function niceStep(rough: number): number {
  const power = 10 ** Math.floor(Math.log10(rough))
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => step >= rough)!
}

const number = (value: number): string => (value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(2))))

function text(x: number, y: number, content: string, style: string, anchor = 'start'): string {
  const escaped = content.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}"${style === '' ? '' : ` class="${style}"`}${anchor === 'start' ? '' : ` text-anchor="${anchor}"`}>${escaped}</text>`
}

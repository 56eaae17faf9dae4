/**
 * Metrics in the text format of Prometheus. Pure. Every value is read from its owner when it is asked for, so there is no
 * registry here and nothing to keep: that is why no library is used.
 * Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4)
 */
export type Labels = Readonly<Record<string, string>>
export type Sample = readonly [value: number | null, labels?: Labels]
export type Family = { readonly name: string; readonly type: 'gauge' | 'counter'; readonly help: string; readonly samples: readonly Sample[] }

export const CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

/** Samples that are null are left out: an unknown value is none. Families without samples are left out whole. */
export function renderMetrics(families: readonly Family[]): string {
  return families.map(renderFamily).join('')
}

function renderFamily({ name, type, help, samples }: Family): string {
  const lines = samples.flatMap(([value, labels = {}]) => (value === null ? [] : `${name}${renderLabels(labels)} ${renderValue(value)}\n`))
  if (lines.length === 0) return ''
  return `# HELP ${name} ${help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}\n# TYPE ${name} ${type}\n${lines.join('')}`
}

function renderLabels(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escapeLabel(value)}"`)
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`
}

const escapeLabel = (text: string): string => text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')

function renderValue(value: number): string {
  if (Number.isNaN(value)) return 'NaN'
  if (!Number.isFinite(value)) return value > 0 ? '+Inf' : '-Inf'
  return String(value)
}

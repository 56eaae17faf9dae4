/** Numbers about numbers. Pure. */

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

export type Distribution = { readonly count: number; readonly p50: number; readonly p99: number; readonly p999: number; readonly max: number }

export function distribution(values: readonly number[]): Distribution {
  const sorted = Float64Array.from(values).sort()
  // The smallest value that at least this share of all does not exceed.
  const quantile = (share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]
  return { count: sorted.length, p50: quantile(0.5), p99: quantile(0.99), p999: quantile(0.999), max: sorted[sorted.length - 1] }
}

/**
 * How long to wait before attempt `attempt` (the first retry is 1): exponential, with jitter so that many do not come
 * back at once. `random` is in [0, 1). Milliseconds. Pure.
 */
export function backoffMs(attempt: number, random: number, limits: { readonly minMs: number; readonly maxMs: number }): number {
  const ceiling = Math.min(limits.maxMs, limits.minMs * 2 ** Math.min(attempt - 1, 30))
  return ceiling * (0.5 + random / 2)
}

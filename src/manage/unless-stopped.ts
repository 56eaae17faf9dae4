/** The result, or the reason of the stop when that comes first; the work goes on and is ended by its owner. */
export async function unlessStopped<T>(stop: AbortSignal, work: Promise<T>): Promise<T> {
  work.catch(() => undefined)
  const over = new AbortController()
  const stopped = new Promise<never>((_resolve, reject) => {
    stop.addEventListener('abort', () => reject(stop.reason as Error), { signal: over.signal })
  })
  try {
    stop.throwIfAborted()
    return await Promise.race([work, stopped])
  } finally {
    over.abort()
  }
}

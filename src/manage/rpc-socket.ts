/** Where the management socket lies, and how it is reached by a path that is short enough. */
import { closeSync, openSync } from 'node:fs'
import { join } from 'node:path'

export const socketPath = (dataDirectory: string): string => join(dataDirectory, 'run', 'rpc.sock')

/** A Unix socket's path holds 107 bytes; through the folder's descriptor any path is short. unix(7) */
export function openFolder(path: string): Disposable & { readonly below: (name: string) => string } {
  const fd = openSync(path, 'r')
  return { below: (name) => join('/proc/self/fd', String(fd), name), [Symbol.dispose]: () => closeSync(fd) }
}

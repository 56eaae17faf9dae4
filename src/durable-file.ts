/** Files that are there whole or not at all: written beside, fsynced, renamed, and the folder fsynced. */
import { mkdir, open, rename, rm, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'

export async function syncDirectory(path: string): Promise<void> {
  await using directory = await open(path, 'r')
  await directory.sync()
}

/** Makes the folder, and those above it, so that they are there after a power cut as well. */
export async function makeDirectoryDurably(path: string): Promise<void> {
  const first = await mkdir(path, { recursive: true, mode: 0o700 })
  if (first === undefined) return
  for (let made = path; ; made = dirname(made)) {
    await syncDirectory(dirname(made))
    if (made === first || made === dirname(made)) return
  }
}

/** Writes all of the buffers. writev takes at most 1024 of them and may stop short, also in the middle of one. */
export async function writeAll(file: Pick<FileHandle, 'writev'>, buffers: readonly Buffer[], position: number): Promise<void> {
  const MAX_BUFFERS = 1024
  for (let first = 0; first < buffers.length; first += MAX_BUFFERS) {
    let rest = buffers.slice(first, first + MAX_BUFFERS).filter((buffer) => buffer.length > 0)
    while (rest.length > 0) {
      const { bytesWritten } = await file.writev(rest, position)
      if (bytesWritten === 0) throw new Error('a write took nothing')
      position += bytesWritten
      let skip = bytesWritten
      let i = 0
      while (i < rest.length && skip >= rest[i].length) skip -= rest[i++].length
      rest = rest.slice(i)
      if (skip > 0) rest[0] = rest[0].subarray(skip)
    }
  }
}

export async function writeFileDurably(path: string, content: string | Uint8Array, mode = 0o600): Promise<void> {
  await replaceFile(path, content, mode)
  await syncDirectory(dirname(path))
}

/** Old or new content, whole, whatever happens; new for sure once the folder is synced, which is left to the caller. */
export async function replaceFile(path: string, content: string | Uint8Array, mode = 0o600): Promise<void> {
  const beside = `${path}.new`
  try {
    await using file = await open(beside, 'w', mode)
    await file.writeFile(content)
    await file.sync()
  } catch (error) {
    await rm(beside, { force: true })
    throw error
  }
  await rename(beside, path)
}

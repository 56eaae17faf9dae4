/** Files that are there whole or not at all: written beside, fsynced, renamed, and the folder fsynced. */
import { open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'

export async function syncDirectory(path: string): Promise<void> {
  await using directory = await open(path, 'r')
  await directory.sync()
}

export async function writeFileDurably(path: string, content: string | Uint8Array, mode = 0o600): Promise<void> {
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
  await syncDirectory(dirname(path))
}

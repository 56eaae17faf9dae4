/**
 * A position kept in a file: the first line is where to go on, the others are older positions, newest first.
 * Written beside and renamed, so that the file is whole whenever the process dies. Written after the output it stands for:
 * what was printed since the last write is printed again.
 */
import { open, readFile, rename } from 'node:fs/promises'
import { dirname } from 'node:path'
import { BeyondError, fromSystem } from '../errors.ts'
import { parsePosition } from '../transport/client.ts'

export type SavedPosition = { readonly position: string; readonly checkpoints: readonly string[] }

/** Undefined when there is no file yet. BAD_ARGUMENT when it holds something else. */
export async function readPositionFile(path: string): Promise<SavedPosition | undefined> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw fromSystem(error, `reading the position file ${path}`)
  }
  const [position = '', ...checkpoints] = text.split('\n').filter((line) => line !== '')
  try {
    for (const line of [position, ...checkpoints]) parsePosition(line)
  } catch (error) {
    throw new BeyondError(
      'BAD_ARGUMENT',
      `${path} is no position file: remove it to begin anew, or name another one.`,
      { cause: error, facts: { path } },
    )
  }
  return { position, checkpoints }
}

export async function writePositionFile(path: string, saved: SavedPosition): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`
  try {
    const file = await open(temporary, 'w', 0o600)
    try {
      await file.writeFile(`${[saved.position, ...saved.checkpoints].join('\n')}\n`)
      await file.datasync()
    } finally {
      await file.close()
    }
    await rename(temporary, path)
    const folder = await open(dirname(path), 'r')
    try {
      await folder.sync()
    } finally {
      await folder.close()
    }
  } catch (error) {
    throw fromSystem(error, `saving the position in ${path}`)
  }
}

/** Saves at most once in `intervalMs`, and what is left at `flush`. */
export class PositionSaver {
  readonly #path: string
  readonly #intervalMs: number
  readonly #now: () => number
  #saved: string | undefined
  #savedAt = -Infinity
  #pending: (() => SavedPosition | undefined) | undefined

  constructor(path: string, intervalMs: number, now: () => number = () => performance.now()) {
    this.#path = path
    this.#intervalMs = intervalMs
    this.#now = now
  }

  /** `current` is asked when it is time to write. */
  async reached(current: () => SavedPosition | undefined): Promise<void> {
    this.#pending = current
    if (this.#now() - this.#savedAt >= this.#intervalMs) await this.flush()
  }

  async flush(): Promise<void> {
    const saved = this.#pending?.()
    this.#pending = undefined
    if (!saved || saved.position === this.#saved) return
    await writePositionFile(this.#path, saved)
    this.#saved = saved.position
    this.#savedAt = this.#now()
  }
}

/** Timeline history files: kept for ever, and each name is given once. */
import { createHash } from 'node:crypto'
import { link, open, readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { makeDirectoryDurably, syncDirectory } from '../durable-file.ts'
import { BeyondError } from '../errors.ts'
import { historyFileName, parseHistory, parseHistoryFileName, type Timeline } from '../wal/timeline.ts'
import type { HistoryInfo } from './sink.ts'

export class HistoryStore {
  readonly #directory: string
  readonly #held = new Map<Timeline, Buffer>()

  private constructor(directory: string) {
    this.#directory = directory
  }

  static async open(directory: string): Promise<HistoryStore> {
    await makeDirectoryDurably(directory)
    const store = new HistoryStore(directory)
    for (const file of await readdir(directory)) {
      const timeline = parseHistoryFileName(file)
      if (timeline) store.#held.set(timeline, await readFile(join(directory, file)))
      else if (file.endsWith('.new')) await rm(join(directory, file))
    }
    return store
  }

  has(timeline: number): boolean {
    return this.#held.has(timeline as Timeline)
  }

  get(timeline: Timeline): Buffer | undefined {
    return this.#held.get(timeline)
  }

  list(): HistoryInfo[] {
    return [...this.#held]
      .sort(([a], [b]) => a - b)
      .map(([timeline, content]) => ({
        name: historyFileName(timeline),
        timeline,
        bytes: content.length,
        sha256: createHash('sha256').update(content).digest('hex'),
      }))
  }

  /** Durable when it settles. Throws HISTORY_DIVERGED when another one has the name, BAD_REQUEST when it is no history. */
  async put(timeline: Timeline, content: Buffer): Promise<void> {
    const name = historyFileName(timeline)
    if (!parseHistory(content.toString(), timeline)) throw new BeyondError('BAD_REQUEST', `The content for ${name} is not a timeline history.`)
    const held = this.#held.get(timeline)
    if (held?.equals(content)) return
    if (held) throw new BeyondError('HISTORY_DIVERGED', `${name} is taken by another history: choose another timeline.`, { facts: { name } })
    this.#held.set(timeline, content)
    const path = join(this.#directory, name)
    const beside = `${path}.new`
    try {
      await using file = await open(beside, 'w', 0o600)
      await file.writeFile(content)
      await file.sync()
      // Unlike a rename, a link fails when the name is there.
      await link(beside, path)
      await syncDirectory(this.#directory)
    } catch (error) {
      this.#held.delete(timeline)
      throw error
    } finally {
      await rm(beside, { force: true })
    }
  }
}

/** A change log in a folder of its own, and what tests look at in it. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { ChangeLog, type ChangeLogOptions } from '../../src/log/change-log.ts'
import { LogCursor } from '../../src/log/log-cursor.ts'
import type { Place } from '../../src/log/log-search.ts'
import type { Manifest } from '../../src/log/manifest.ts'
import { toLsn } from '../../src/wal/lsn.ts'

export const manifest: Manifest = {
  history: '0a0b0c0d-0102-4304-8506-0708090a0b0c',
  systemId: '7000000000000000001',
  database: 'postgres',
  slot: 'beyond',
  publication: 'beyond',
  genesis: toLsn(0x1000n),
  createdAt: '2026-01-01T00:00:00.000Z',
}

export const silent = pino({ level: 'silent' })

export class LogFolder implements AsyncDisposable {
  readonly path: string

  private constructor(path: string) {
    this.path = path
  }

  static async make(): Promise<LogFolder> {
    return new LogFolder(await mkdtemp(join(tmpdir(), 'beyond-log-')))
  }

  open(options: Partial<ChangeLogOptions> = {}): Promise<ChangeLog> {
    return ChangeLog.open({ directory: this.path, manifest, logger: silent, segmentBytes: 64 * 1024, tailBytes: 1024 * 1024, ...options })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.path, { recursive: true, force: true })
  }
}

/** Everything from `place` to the end that is durable now. */
export async function readAll(log: ChangeLog, place: Place): Promise<Buffer> {
  await using cursor = new LogCursor(log, place)
  const pieces: Buffer[] = []
  for (let piece = await cursor.read(); piece; piece = await cursor.read()) pieces.push(piece.bytes)
  return Buffer.concat(pieces)
}

/** box.json: how programs on this machine (`beyond-pg-cdc tail`, `npm run demo`) find a box by its data directory. No secret is in it. */
import { join } from 'node:path'
import { BeyondError } from '../errors.ts'
import { readIfThere, writeFileAtomic } from './atomic-file.ts'
import type { Tier } from './settings.ts'

export type BoxFile = {
  readonly version: 1
  /** What it was when it became ready; missing in files of version 0.1. */
  readonly tier?: Tier
  readonly postgres: { readonly socketDir: string; readonly port: number }
  readonly pooler: { readonly host: string; readonly port: number }
  /** Null when the box streams no changes. */
  readonly quic: { readonly host: string; readonly port: number } | null
  /** Absolute paths of the authority's certificate and of a client's pair. */
  readonly tls: { readonly ca: string; readonly cert: string; readonly key: string }
  readonly database: string
  /** Folder of the password files, which only the owner of the box can read. */
  readonly secrets: string
  /** What is wrong and did not keep the box from starting, a sentence each. */
  readonly problems?: readonly string[]
}

export function writeBoxFile(path: string, box: BoxFile): void {
  writeFileAtomic(path, `${JSON.stringify(box, null, 2)}\n`, { mode: 0o600 })
}

export function readBoxFile(dataDirectory: string): BoxFile {
  const path = join(dataDirectory, 'box.json')
  const text = readIfThere(path)
  if (text === undefined) {
    throw new BeyondError('UNREACHABLE', `No box was ever ready in ${dataDirectory}: start one with npm start, or name its directory with --data.`)
  }
  return JSON.parse(text) as BoxFile
}

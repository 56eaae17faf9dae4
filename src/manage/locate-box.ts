/** The data directory that a person means: without links, since a default one may be a link to where its account can reach it. */
import { realpathSync } from 'node:fs'
import { resolve } from 'node:path'
import { BeyondError, fromSystem } from '../errors.ts'

export function locateBox(dataDirectory: string): string {
  const path = resolve(dataDirectory)
  try {
    return realpathSync(path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'ENOENT' && code !== 'ENOTDIR') throw fromSystem(error, `looking for the box in ${path}`)
    throw new BeyondError('UNREACHABLE', `There is no box in ${path}: start one with npm start, or name its directory with --data.`, { cause: error, facts: { path } })
  }
}

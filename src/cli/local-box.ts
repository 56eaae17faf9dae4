/** Finds the box on this machine: `box.json` in its data directory says where its changes stream and which certificates to use. */
import { readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { BeyondError, fromSystem } from '../errors.ts'

export type LocalBox = {
  readonly server: string
  readonly caFile: string
  readonly certFile: string
  readonly keyFile: string
}

/** Throws UNREACHABLE when there is no box, NO_PERMISSION when it is someone else's, BAD_ARGUMENT when the file is not ours. */
export async function findLocalBox(dataDirectory: string): Promise<LocalBox> {
  const directory = resolve(dataDirectory)
  const path = join(directory, 'box.json')
  return parseBoxFile(await readBoxFile(path, directory), path)
}

async function readBoxFile(path: string, directory: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR')
      throw new BeyondError(
        'UNREACHABLE',
        `There is no box in ${directory}: start one with npm start, name its directory with --data, or a server with --server.`,
        { cause: error, facts: { path } },
      )
    throw fromSystem(error, `looking for the box in ${directory}`)
  }
}

function parseBoxFile(text: string, path: string): LocalBox {
  const refuse = (what: string, cause?: unknown) => new BeyondError('BAD_ARGUMENT', `${path} ${what}.`, { cause, facts: { path } })
  let box: { version?: unknown; quic?: { host?: unknown; port?: unknown } | null; tls?: { ca?: unknown; cert?: unknown; key?: unknown } }
  try {
    box = JSON.parse(text) as typeof box
  } catch (error) {
    throw refuse('is not JSON', error)
  }
  if (box?.version !== 1) throw refuse('was written by another version of this program')
  if (box.quic === null) throw new BeyondError('UNREACHABLE', `The box of ${path} streams no changes.`, { facts: { path } })
  const { host, port } = box.quic ?? {}
  const { ca, cert, key } = box.tls ?? {}
  if (typeof host !== 'string' || typeof port !== 'number' || typeof ca !== 'string' || typeof cert !== 'string' || typeof key !== 'string')
    throw refuse('does not say where the changes stream')
  const file = (name: string) => resolve(path, '..', name)
  return {
    server: host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`,
    caFile: file(ca),
    certFile: file(cert),
    keyFile: file(key),
  }
}

/**
 * Files that are whole or absent, also after a crash: written beside, fsynced, renamed.
 * The temporary name is created exclusively, so that a link planted under it is never followed.
 */
import { chmodSync, closeSync, fchmodSync, fchownSync, fsyncSync, lchownSync, lstatSync, openSync, readFileSync, renameSync, rmSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'

export type Owner = { readonly uid: number; readonly gid: number }

export const TEMPORARY_SUFFIX = '.beyond-new'

/** Makes a name that was created, renamed or removed in this folder survive a crash. */
export function syncDirectory(path: string): void {
  const fd = openSync(path, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

/**
 * Makes the file hold exactly this content, mode and owner. Looks before it acts: an unchanged file costs no fsync.
 * Returns whether the content was written. `owner` undefined leaves the file to whoever runs this process.
 */
export function writeFileAtomic(path: string, content: string, options: { mode: number; owner?: Owner | undefined }): boolean {
  if (readIfThere(path) === content) {
    setAccess(path, options)
    return false
  }
  const temporary = path + TEMPORARY_SUFFIX
  rmSync(temporary, { force: true, recursive: true })
  const fd = openSync(temporary, 'wx', 0o600)
  try {
    const bytes = Buffer.from(content)
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at)
    if (options.owner) fchownSync(fd, options.owner.uid, options.owner.gid)
    fchmodSync(fd, options.mode)
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
  renameSync(temporary, path)
  syncDirectory(dirname(path))
  return true
}

/** The content of a regular file, undefined when there is none. */
export function readIfThere(path: string): string | undefined {
  const stats = lstatSync(path, { throwIfNoEntry: false })
  return stats?.isFile() ? readFileSync(path, 'utf8') : undefined
}

function setAccess(path: string, { mode, owner }: { mode: number; owner?: Owner | undefined }): void {
  const stats = lstatSync(path)
  if (owner && (stats.uid !== owner.uid || stats.gid !== owner.gid)) lchownSync(path, owner.uid, owner.gid)
  if ((stats.mode & 0o7777) !== mode) chmodSync(path, mode)
}

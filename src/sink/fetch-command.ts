/**
 * The text of a restore_command. Pure.
 *
 * Two things stand in the way of a plain call. A runtime that can't start, for whatever reason, exits with 1 by itself,
 * which is just what Postgres takes for the end of WAL; so the program says "end" with a code that nothing else uses, and
 * only that one becomes 1. And a program per file is slow; so what the fetcher has ready is moved by `mv`.
 */
import { BeyondError } from '../errors.ts'

/** Not used by Node.js, by shells, or by sysexits. */
export const END_EXIT = 117

export type RestoreCommand = {
  /** Program and arguments that end with `fetch` and its options; name, destination and --end-exit are added. */
  readonly fetch: readonly string[]
  /** Of the fetcher. */
  readonly readyFolder?: string | undefined
}

/** As Postgres is to have it: %f and %p are its own, and a percent sign of ours is doubled. Not quoted for a settings file. */
export function restoreCommand({ fetch, readyFolder }: RestoreCommand): string {
  const quoted = fetch.map(quote).join(' ')
  const ready = readyFolder === undefined ? '' : `mv ${quote(readyFolder)}/"%f" "%p" 2>/dev/null && exit 0; `
  return `${ready}${quoted} --end-exit ${END_EXIT} "%f" "%p"; rc=$?; case $rc in 0) exit 0;; ${END_EXIT}) exit 1;; esac; [ $rc -gt 125 ] && exit $rc; exit 200`
}

function quote(text: string): string {
  // Postgres puts the command on one line of a shell; a line end would be the end of it.
  // oxlint-disable-next-line no-control-regex
  if (/[\x00-\x1f]/.test(text)) throw new BeyondError('BAD_ARGUMENT', 'A restore_command can have no control characters.')
  return `'${text.replaceAll("'", "'\\''").replaceAll('%', '%%')}'`
}

/** What a person is told when the box is ready: lines to copy, and where things lie. Pure. */
import { join, relative } from 'node:path'
import type { ReadyBox } from './box.ts'

export type Place = { readonly workingDirectory: string; readonly isDefaultDataDir: boolean }

export function readyText({ layout, programs, box, pgpass, cdcProblem }: ReadyBox, place: Place): string {
  const short = (path: string): string => {
    const below = relative(place.workingDirectory, path)
    return below === '' || below.startsWith('..') ? path : below
  }
  const dataFlag = place.isDefaultDataDir ? '' : ` --data ${shellWord(short(layout.root))}`
  const connection = `"host=${box.pooler.host} port=${box.pooler.port} user=postgres dbname=${box.database}"`
  return [
    '',
    'The box is ready. Ctrl-C stops it.',
    '',
    '  Connect',
    `    PGPASSFILE=${shellWord(short(pgpass))} ${shellWord(programs.psql)} ${connection}`,
    ...(box.quic ? ['  Watch changes arrive, in another terminal', `    npx beyond-pg-cdc tail${dataFlag}`] : []),
    '  Write something to watch',
    `    npm run demo${place.isDefaultDataDir ? '' : ` --${dataFlag}`}`,
    '',
    `  Data          ${short(layout.postgres)}`,
    `  Your settings ${short(join(layout.confD, '99-user.conf'))}`,
    `  Logs          ${short(join(layout.log, 'beyond-pg.log'))}`,
    `  Certificates  ${short(layout.tls)} (ca.crt, client.crt, client.key for subscribers)`,
    '',
    ...(cdcProblem === undefined ? [] : [`  CHANGES DO NOT STREAM: ${cdcProblem}`, '  It is tried again from time to time; the log says more.', '']),
  ].join('\n')
}

/** A word as a shell reads it back. */
export function shellWord(text: string): string {
  return /^[\w./:=@%+,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
}

/** The status of a box for somebody who is tired: what runs, what is protected, how far behind, what needs attention. Pure. */
import { type BoxStatus, type ChildFacts, known, type PostgresFacts, type Verdict } from '../manage/status-facts.ts'
import { findingLines, LABEL } from './box-findings.ts'
import { count } from './format-change.ts'
import { shownBytes, shownDuration } from './format-status.ts'
import { type Piece, printable, renderLine } from './terminal.ts'

export type StatusTextOptions = { readonly columns: number; readonly color: boolean }

const VERDICTS: Readonly<Record<Verdict, Piece>> = {
  healthy: ['healthy', 'green'],
  warning: ['works, with warnings', 'yellow'],
  unhealthy: ['UNHEALTHY', 'red'],
}

type Row = readonly [label: string, ...pieces: Piece[]]

export function boxStatusText(status: BoxStatus, { columns, color }: StatusTextOptions): string {
  const now = Date.parse(status.time)
  const rows: Row[] = [...box(status, now), ...postgres(status, now), ...pooler(status, now), ...changes(status, now), ...disk(status), ...certificates(status)]
  const lines = rows.map(([label, ...pieces]) => renderLine([[label.padEnd(LABEL), 'dim'], ...pieces.map(([text, style = 'plain']): Piece => [printable(text), style])], { columns, color }))
  return `${[...lines, ...findingLines(status.health.findings, columns, color)].map((line) => line.trimEnd()).join('\n')}\n`
}

function box({ box, health, query }: BoxStatus, now: number): Row[] {
  const answered = known(query)
  const answer: Piece = answered ? [`  a client's query takes ${shownDuration(answered.ms)}`] : ['  no query is answered', 'red']
  return [
    ['box', VERDICTS[health.verdict], answer, [`  up ${since(box.startedAt, now)}${box.ready ? '' : ', booting'}`]],
    ['', [box.directory]],
    ['', [`beyond-pg ${box.version}  ${box.tier}  process ${box.pid}  ${shownBytes(BigInt(box.memoryBytes))}`]],
  ]
}

function postgres({ postgres, children }: BoxStatus, now: number): Row[] {
  const state = childPieces(children, 'postgres', now)
  const facts = known(postgres)
  if (!facts) return [['postgres', ...state], ['', [(postgres as { error: string }).error, 'red']]]
  const { connections, replica, standbys, slots } = facts
  const rows: Row[] = [
    ['postgres', [`${facts.version} ${replica ? 'replica' : 'primary'}  `, 'bold'], ...state],
    ['', [`WAL ${facts.walLsn ?? '-'} on timeline ${facts.timeline}  last checkpoint ${since(facts.checkpointAt, now)} ago`]],
    ['', [`${connections.used} of ${connections.max} connections, ${connections.active} at work`]],
  ]
  if (!replica) rows.push(['protected', ...protection(facts)])
  else {
    const behind = replica.replayBytes === 0 ? 'all of it replayed' : `${shownBytes(BigInt(replica.replayBytes))}, ${shownDuration(replica.replayMs)} not replayed`
    rows.push(['replica', replica.streaming ? ['streaming', 'green'] : ['cut off', 'red'], [`  received ${replica.receivedLsn ?? '-'}, ${behind}`]])
  }
  for (const [at, { name, state, sync, lagBytes, lagMs }] of standbys.entries()) {
    const behind = lagBytes === null ? 'unknown' : `${shownBytes(BigInt(lagBytes))}${lagMs === null ? '' : `, ${shownDuration(lagMs)}`} behind`
    rows.push([at === 0 ? 'standbys' : '', [`${name}  ${sync} ${state}  ${behind}`]])
  }
  for (const [at, { name, kind, active, retainedBytes, walStatus, invalidation }] of slots.entries()) {
    const lost = walStatus === 'lost' || invalidation !== null
    const keeps = lost ? 'LOST' : `keeps ${shownBytes(BigInt(Math.max(0, retainedBytes ?? 0)))} of WAL`
    rows.push([at === 0 ? 'slots' : '', [`${name}  ${kind}, ${active ? 'read' : 'nobody reads it'}  `], [keeps, lost ? 'red' : 'plain']])
  }
  return rows
}

function protection({ protection, walLsn }: PostgresFacts): Piece[] {
  switch (protection.kind) {
    case 'none':
      return [['not at all', 'yellow'], [`: ${protection.because}, a crash loses the last commits`]]
    case 'disk':
      return [['by this disk alone: no sink and no synchronous standby']]
    case 'standbys': {
      const who = `${protection.present} of ${protection.needed} needed: ${protection.names.join(', ') || 'none'}`
      if (protection.upTo === null) return [['commits wait', 'red'], [` for standbys, ${who}`]]
      return [[`up to ${protection.upTo}`, 'green'], [`${protection.upTo === walLsn ? ', which is all,' : ''} on standbys, ${who}`]]
    }
  }
}

function pooler({ pooler, children }: BoxStatus, now: number): Row[] {
  const state = childPieces(children, 'pgbouncer', now)
  const facts = known(pooler)
  if (!facts) return [['pooler', ...state], ['', [(pooler as { error: string }).error, 'red']]]
  const { clients, servers } = facts
  const paused: Piece[] = facts.paused ? [['PAUSED  ', 'red']] : []
  return [
    ['pooler', [`PgBouncer ${facts.version}  `, 'bold'], ...paused, ...state, ...(facts.workers === 1 ? [] : [[`  ${facts.workers} processes`] as const])],
    ['', [`${count(clients.active, 'client')}, ${clients.waiting} waiting, room for ${clients.max}  ${count(servers.active + servers.idle, 'connection')} to Postgres`]],
  ]
}

function changes({ changes, children }: BoxStatus, now: number): Row[] {
  if (changes === null) return []
  const state = childPieces(children, 'cdc', now)
  const facts = known(changes)
  if (!facts) return [['changes', ...state], ['', [(changes as { error: string }).error, 'red']]]
  const { subscribers } = facts
  const streaming = facts.state === 'streaming'
  const newest = facts.newestAt === null ? '' : `, the newest committed ${since(facts.newestAt, now)} ago`
  const slowest = Math.max(0, ...subscribers.filter(({ connected }) => connected).map(({ lagBytes }) => lagBytes))
  const away = subscribers.filter(({ connected, durable }) => durable && !connected)
  const connected = subscribers.length - away.length
  const worst = connected === 0 ? '' : `, at most ${shownBytes(BigInt(slowest))} behind`
  return [
    ['changes', [`${facts.state}  `, streaming ? 'bold' : 'red'], ...state],
    ...(facts.error === null ? [] : [['', [facts.error, 'red']] as const]),
    ['', [`confirmed ${facts.confirmedLsn}, ${shownBytes(BigInt(facts.lagBytes))} behind  log ${shownBytes(BigInt(facts.logBytes))}${newest}`]],
    ['', [`${count(connected, 'subscriber')}${worst}${away.length === 0 ? '' : `, away: ${away.map(({ name }) => name).join(', ')}`}`]],
  ]
}

function disk({ disk }: BoxStatus): Row[] {
  const facts = known(disk)
  if (!facts) return [['disk', [(disk as { error: string }).error, 'red']]]
  const share = Math.floor((facts.freeBytes / Math.max(1, facts.totalBytes)) * 100)
  return [['disk', [`${shownBytes(BigInt(facts.freeBytes))} of ${shownBytes(BigInt(facts.totalBytes))} free (${share} %)`]]]
}

function certificates({ certificates }: BoxStatus): Row[] {
  const left = certificates.map(({ name, daysLeft }) => `${name} ${daysLeft === null ? 'unreadable' : daysLeft < 0 ? 'expired' : `${Math.floor(daysLeft)} days`}`)
  return certificates.length === 0 ? [] : [['TLS', [`certificates: ${left.join(', ')}`]]]
}

function childPieces(children: readonly ChildFacts[], name: string, now: number): Piece[] {
  const child = children.find((each) => each.name === name)
  if (!child) return [['not started', 'yellow']]
  if (child.status === 'running') return [['running', 'green'], [`  process ${child.pid ?? '-'}${child.since === null ? '' : `  up ${since(child.since, now)}`}`]]
  const next = child.nextAttempt === null ? '' : `, tried again in ${shownDuration(Date.parse(child.nextAttempt) - now)}`
  const what = { waiting: 'not started', starting: 'starting', 'backing-off': 'has failed', stopped: 'stopped' }[child.status]
  return [[`${what}${next}`, child.status === 'starting' ? 'yellow' : 'red']]
}

const since = (iso: string, now: number): string => shownDuration(Math.max(0, now - Date.parse(iso)))

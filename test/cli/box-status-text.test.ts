import assert from 'node:assert/strict'
import { test } from 'node:test'
import { boxStatusText } from '../../src/cli/box-status-text.ts'
import { logLineText } from '../../src/cli/box-log-text.ts'
import { displayWidth } from '../../src/cli/terminal.ts'
import type { Facts } from '../../src/manage/health.ts'
import type { DiskFacts } from '../../src/manage/status-facts.ts'
import { changes, pooler, postgres, slot, statusOf, well } from '../manage/box-facts.ts'

const show = (facts: Facts, columns: number, color = false): string => boxStatusText(statusOf(facts), { columns, color })
const screen = (lines: string): string => lines.slice(1)

const sick: Facts = {
  ...well,
  children: [well.children[0], well.children[1], { ...well.children[2], status: 'backing-off', pid: null, since: null, nextAttempt: '2026-03-04T12:00:08.000Z' }],
  postgres: {
    ...postgres,
    protection: { kind: 'standbys', needed: 2, present: 1, upTo: null, names: ['sink1'] },
    standbys: [{ name: 'sink1', state: 'streaming', sync: 'quorum', flushed: '1A/2B3C4D00', lagBytes: 94, lagMs: 3 }],
    slots: [{ ...slot, active: false, walStatus: 'lost', invalidation: 'wal_removed' }],
    badSettings: [{ file: '/srv/orders/.beyond/config/conf.d/99-user.conf', line: 7, name: 'work_mem', error: 'invalid value for parameter "work_mem": "lots"' }],
  },
  pooler: { ...pooler, workers: 3 },
  changes: { error: 'The service does not answer.' },
  query: { error: 'no answer within 3 s' },
  disk: { ...(well.disk as DiskFacts), freeBytes: 1024 ** 3 },
}

test('a box that is well, 100 columns', () => {
  assert.equal(
    show(well, 100),
    screen(`
box        healthy  a client's query takes 3 ms  up 3 d 3 h
           /srv/orders/.beyond
           beyond-pg 0.1.0  primary  process 4001  61.0 MiB
postgres   18.6 primary  running  process 4010  up 3 d 2 h
           WAL 1A/2B3C4D5E on timeline 1  last checkpoint 4 min ago
           12 of 100 connections, 3 at work
protected  by this disk alone: no sink and no synchronous standby
slots      beyond_cdc  logical, read  keeps 56 B of WAL
pooler     PgBouncer 1.26.1  running  process 4020  up 3 d 2 h
           8 clients, 0 waiting, room for 1000  5 connections to Postgres
changes    streaming  running  process 4030  up 3 d 2 h
           confirmed 1A/2B3C4D26, 56 B behind  log 12.0 MiB, the newest committed 2.0 s ago
           2 subscribers, at most 2.0 KiB behind, away: search
disk       71.0 GiB of 100 GiB free (71 %)
TLS        certificates: server 392 days, client 392 days, authority 3650 days
`),
  )
})

test('a box that is not, 80 columns: what to do is never cut off', () => {
  assert.equal(
    show(sick, 80),
    screen(`
box        UNHEALTHY  no query is answered  up 3 d 3 h
           /srv/orders/.beyond
           beyond-pg 0.1.0  primary  process 4001  61.0 MiB
postgres   18.6 primary  running  process 4010  up 3 d 2 h
           WAL 1A/2B3C4D5E on timeline 1  last checkpoint 4 min ago
           12 of 100 connections, 3 at work
protected  commits wait for standbys, 1 of 2 needed: sink1
standbys   sink1  quorum streaming  94 B, 3 ms behind
slots      beyond_cdc  logical, nobody reads it  LOST
pooler     PgBouncer 1.26.1  running  process 4020  up 3 d 2 h  3 processes
           8 clients, 0 waiting, room for 1000  5 connections to Postgres
changes    has failed, tried again in 8.0 s
           The service does not answer.
disk       1.0 GiB of 100 GiB free (1 %)
TLS        certificates: server 392 days, client 392 days, authority 3650 days

PROBLEM    cdc has failed, tried again in 8.0 s.
           → see why: beyond-pg logs --child cdc

PROBLEM    A query through the pooler failed: no answer within 3 s.
           → beyond-pg logs shows what Postgres and PgBouncer say

PROBLEM    Commits wait: 1 of 2 synchronous standbys are connected.
           → bring the sink or standby back; nothing is lost, and what waits
             goes on by itself

PROBLEM    Slot beyond_cdc is lost (wal_removed): its reader misses changes for
           good.
           → its reader has to begin anew; then drop it: SELECT
             pg_drop_replication_slot(…)

PROBLEM    The disk is nearly full: 1.0 GiB of 100.0 GiB are free (1 %).
           → grow the volume, or make room: large tables, old logs, slots that
             keep WAL

warning    /srv/orders/.beyond/config/conf.d/99-user.conf:7 is not in effect:
           work_mem: invalid value for parameter "work_mem": "lots".
           → mend that line, then beyond-pg reload
`),
  )
})

test('a replica, a box that boots, one whose commits are on standbys', () => {
  const replica = { streaming: true, receivedLsn: '1A/2B3C4D5E', replayedLsn: '1A/2B3C0000', replayBytes: 19_806, replayMs: 850, silentMs: 40, paused: false }
  const text = show({ ...well, changes: null, postgres: { ...postgres, inRecovery: true, slots: [], replica } }, 80)
  assert.match(text, /^postgres {3}18\.6 replica {2}running/m)
  assert.match(text, /^replica {4}streaming {2}received 1A\/2B3C4D5E, 19\.3 KiB, 850 ms not replayed$/m)
  assert.doesNotMatch(text, /protected|changes/)
  const booting = { ...well, box: { ...well.box, ready: false }, children: [], postgres: { error: 'the database system is starting up' }, pooler: { error: 'not started yet' } }
  assert.match(show(booting, 80), /^postgres {3}not started\n {11}the database system is starting up$/m)
  assert.match(show(booting, 80), /^PROBLEM {4}The box is booting\.$/m)
  const held = (upTo: string) => show({ ...well, postgres: { ...postgres, protection: { kind: 'standbys', needed: 1, present: 1, upTo, names: ['sink1'] } } }, 80)
  assert.match(held('1A/2B3C4D5E'), /^protected {2}up to 1A\/2B3C4D5E, which is all, on standbys, 1 of 1 needed: sink1$/m)
  assert.match(held('1A/0'), /^protected {2}up to 1A\/0 on standbys, 1 of 1 needed: sink1$/m)
})

test('no line is wider than the terminal, none holds what a terminal would obey', () => {
  const evil = '\u001b[31m\u202Eevil\n'
  const long = { ...changes, subscribers: [{ ...changes.subscribers[1], name: evil.repeat(20) }] }
  for (const columns of [40, 80, 100]) {
    for (const facts of [well, sick, { ...well, changes: long, box: { ...well.box, directory: `/${'d'.repeat(200)}`, problems: ['x'.repeat(300)] } }]) {
      const text = show(facts, columns)
      for (const line of text.split('\n')) assert.ok(displayWidth(line) <= columns, line)
      assert.ok(!text.includes('\u001b') && !text.includes('\u202E'))
    }
  }
  assert.ok(show(well, 100, true).includes('\u001b[32mhealthy'))
})

test('a line of the log, for people', () => {
  const line = JSON.stringify({ level: 40, time: 1_772_625_600_000, child: 'postgres', msg: 'too\nmany', childPid: 7, err: { message: 'why' } })
  assert.equal(logLineText(line, false), '2026-03-04 12:00:00  postgres    warning too\\nmany: why  childPid=7')
  assert.equal(logLineText('{"half', false), '{"half')
})

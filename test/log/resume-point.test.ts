import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { ErrorCode } from '../../src/errors.ts'
import { resumePoint } from '../../src/log/resume-point.ts'
import { toLsn } from '../../src/wal/lsn.ts'
import type { ServerState } from '../../src/wal/slot.ts'
import { manifest } from './log-folder.ts'

const GENESIS = manifest.genesis
const lsn = (value: number) => toLsn(BigInt(value))
const slot = (confirmed: number, more: Partial<NonNullable<ServerState['slot']>> = {}): ServerState['slot'] => ({ confirmed: lsn(confirmed), lost: undefined, active: false, ...more })
const server = (more: Partial<ServerState> = {}): ServerState => ({ systemId: manifest.systemId, walLsn: lsn(0x9000), slot: slot(0x2000), publication: true, ...more })
/** The newest transaction of the log committed at 0x3000, and Postgres was read up to 0x4000. */
const log = { manifest, head: lsn(0x3000), reached: lsn(0x4000) }

describe('reading goes on', () => {
  const table: [string, ServerState, typeof log, boolean][] = [
    ['with the newest transaction once more when the slot is behind it', server(), log, true],
    ['with it once more when the slot is right at it', server({ slot: slot(0x3000) }), log, true],
    ['after it when the slot has been told of it', server({ slot: slot(0x3030) }), log, false],
    ['where the log is when slot and log agree', server({ slot: slot(0x4000) }), log, false],
    ['where the WAL ends with the log', server({ walLsn: lsn(0x4000) }), log, true],
    ['at the beginning of a history without a transaction', server({ slot: slot(0x1001) }), { ...log, head: GENESIS, reached: toLsn(GENESIS + 1n) }, false],
    ['in a history without a transaction whose slot is behind', server({ slot: slot(0x1001) }), { ...log, head: GENESIS }, false],
  ]
  for (const [name, state, of, replaysHead] of table)
    it(name, () => assert.deepEqual(resumePoint(state, of), { confirmed: state.slot!.confirmed, replaysHead }))
})

describe('reading does not go on', () => {
  const table: [string, ServerState, ErrorCode, RegExp][] = [
    ['on another system', server({ systemId: '1' }), 'HISTORY_DIVERGED', /of database system 7000000000000000001, this Postgres is 1\./],
    ['without a slot', server({ slot: undefined }), 'SLOT_LOST', /is gone: changes since 0\/4000 may be missing/],
    ['with a slot that Postgres has given up', server({ slot: slot(0x2000, { lost: 'wal_removed' }) }), 'SLOT_LOST', /\(wal_removed\): changes since 0\/4000 are missing/],
    ['while someone else reads the slot', server({ slot: slot(0x2000, { active: true }) }), 'SLOT_ACTIVE', /Another connection/],
    ['without the publication', server({ publication: false }), 'POSTGRES_REFUSED', /The publication beyond is gone/],
    ['with a WAL that ends before the log', server({ walLsn: lsn(0x3fff) }), 'HISTORY_DIVERGED', /reaches 0\/4000, the WAL of Postgres only 0\/3FFF/],
    ['with a slot that is ahead of the log', server({ slot: slot(0x4001) }), 'HISTORY_DIVERGED', /confirmed up to 0\/4001, the change log reaches only 0\/4000/],
  ]
  for (const [name, state, code, message] of table) it(name, () => assert.throws(() => resumePoint(state, log), { code, message }))
})

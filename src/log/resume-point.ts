/**
 * Where reading of the slot goes on, and whether database, slot and log still belong together. Pure.
 *
 * Slot and log are moved by the same hand: the slot is confirmed only after the log is durable. So the slot can be
 * behind the log (a crash between the two, or of Postgres, which writes slots at checkpoints), never ahead of it; and the
 * WAL reaches at least as far as the log. Anything else is another history, and going on would lose or invent changes.
 */
import { BeyondError } from '../errors.ts'
import { formatLsn, type Lsn } from '../wal/lsn.ts'
import type { ServerState } from '../wal/slot.ts'
import type { Manifest } from './manifest.ts'

export type ResumePoint = {
  /** What the slot has been told. */
  readonly confirmed: Lsn
  /** The slot has yet to be told of the log's newest transaction: it can be had once more, and has to be the same. */
  readonly replaysHead: boolean
}

const REMEDY = 'Restore the one that was put back, or begin a new history with --new-history (subscribers are then told).'

export function resumePoint(server: ServerState, log: { readonly manifest: Manifest; readonly head: Lsn; readonly reached: Lsn }): ResumePoint {
  const { manifest, head, reached } = log
  const { slot } = server
  if (server.systemId !== manifest.systemId)
    throw new BeyondError('HISTORY_DIVERGED', `The change log is of database system ${manifest.systemId}, this Postgres is ${server.systemId}. ${REMEDY}`)
  if (!slot)
    throw new BeyondError('SLOT_LOST', `The slot ${manifest.slot} is gone: changes since ${formatLsn(reached)} may be missing. ${REMEDY}`)
  if (slot.lost !== undefined)
    throw new BeyondError('SLOT_LOST', `Postgres has invalidated the slot ${manifest.slot} (${slot.lost}): changes since ${formatLsn(reached)} are missing. ${REMEDY}`)
  // A connection that was lost may still be on its way to move the slot: what is decided here has to hold.
  if (slot.active) throw new BeyondError('SLOT_ACTIVE', `Another connection reads the slot ${manifest.slot}.`)
  if (!server.publication)
    throw new BeyondError('POSTGRES_REFUSED', `The publication ${manifest.publication} is gone, and what is not published is never seen: create it again, or begin a new history with --new-history.`)
  if (server.walLsn < reached)
    throw new BeyondError(
      'HISTORY_DIVERGED',
      `The change log reaches ${formatLsn(reached)}, the WAL of Postgres only ${formatLsn(server.walLsn)}: the database was put back to an older state. ${REMEDY}`,
    )
  if (slot.confirmed > reached)
    throw new BeyondError(
      'HISTORY_DIVERGED',
      `The slot ${manifest.slot} is confirmed up to ${formatLsn(slot.confirmed)}, the change log reaches only ${formatLsn(reached)}: changes between are missing. ${REMEDY}`,
    )
  return { confirmed: slot.confirmed, replaysHead: head !== manifest.genesis && slot.confirmed <= head }
}

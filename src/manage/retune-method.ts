/** The method `retune` of the management protocol. */
import { method } from './rpc-methods.ts'
import { flag } from './rpc-protocol.ts'
import type { Method } from './rpc-server.ts'
import { scaleBox, type ScaleOptions } from './scale.ts'

/** A checkpoint of a large machine, a pause and two starts. */
const RETUNE_MS = 300_000

/** With `dryRun` it only says what would change. */
export function retuneMethod(options: ScaleOptions): Method {
  return method(RETUNE_MS, { dryRun: flag }, ({ dryRun }, { signal }) => scaleBox(options, { dryRun, signal }))
}

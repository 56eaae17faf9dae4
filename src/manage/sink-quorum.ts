/**
 * How many sinks make a promise, and how many are asked to know all that was promised. Pure.
 *
 * A commit is acknowledged when k of N have it (`ANY k`). A recovery seals N − k + 1: whichever k had a commit, one of them is sealed,
 * and those that are left are fewer than k, so that the old primary can acknowledge nothing any more.
 */

/** A sink as it is remembered: one that lost its disk has another id, and nothing that was promised is on it. */
export type Member = { readonly url: string; readonly name: string; readonly sinkId: string }

/** A majority, so that two boxes can't each collect enough. */
export const writeQuorum = (sinks: number): number => Math.floor(sinks / 2) + 1
export const sealQuorum = (sinks: number): number => sinks - writeQuorum(sinks) + 1

/** `ANY 2 ("a", "b", "c")`: by name, and each one once, since Postgres counts a name as often as it is connected. */
export function synchronousStandbyNames(names: readonly string[]): string {
  return `ANY ${writeQuorum(names.length)} (${names.map((name) => `"${name.replaceAll('"', '""')}"`).join(', ')})`
}

/** Names and identities that stand for more than one URL. Compared without case, as Postgres compares them. */
export function duplicates(members: readonly Member[]): readonly string[] {
  const twice = (keys: readonly string[]): string[] => keys.filter((key, at) => keys.indexOf(key) !== at)
  return [...new Set([...twice(members.map(({ name }) => name.toLowerCase())), ...twice(members.map(({ sinkId }) => sinkId))])]
}

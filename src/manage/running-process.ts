/** What supervision needs to know of a process, whoever started it. */
export type RunningProcess = {
  readonly pid: number | undefined
  /** It ran before we did. */
  readonly adopted: boolean
  readonly exited: Promise<Exit>
  /** What it printed last, at most twenty lines. */
  readonly lastLines: readonly string[]
  readonly signal: (name: NodeJS.Signals) => void
  /** Ends it and all of its process group at once. */
  readonly killGroup: () => void
}

/** Both undefined and no failure: it was not our child, so how it ended is known to nobody. */
export type Exit = { readonly code: number | undefined; readonly signal: string | undefined; readonly failure?: Error }

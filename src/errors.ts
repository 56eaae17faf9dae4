/**
 * Every failure that a person or a program may meet, by a stable code.
 * The text of a message is for people and is never matched; the code is for programs.
 */

/** What a process that ends with an error tells its parent. Documented in docs/errors.md. */
export const exit = {
  ok: 0,
  failed: 1,
  usage: 2,
  unavailable: 3,
  historyBroken: 4,
  environment: 5,
} as const

type Code = { readonly exit: number; readonly retry: boolean }

/** One line per code. The comment says what has happened; the message of the error says what to do. */
export const codes = {
  /** A flag, an environment variable or an argument that we can't use. */
  BAD_ARGUMENT: { exit: exit.usage, retry: false },
  /** A port that is to be listened on belongs to another process. */
  PORT_IN_USE: { exit: exit.environment, retry: false },
  /** The disk, or the quota, is full. */
  DISK_FULL: { exit: exit.environment, retry: true },
  /** A file or folder that this account may not use. */
  NO_PERMISSION: { exit: exit.environment, retry: false },
  /** A data directory of another Postgres version, another owner, or not of ours at all. */
  DATA_DIRECTORY: { exit: exit.environment, retry: false },
  /** Postgres or PgBouncer is not there, can't be run, or is of a version that won't do. */
  PROGRAM_MISSING: { exit: exit.environment, retry: false },
  /** Another process already holds this directory. */
  LOCKED: { exit: exit.environment, retry: false },
  /** Certificates are missing, don't match, or are not for this use. */
  BAD_CERTIFICATE: { exit: exit.environment, retry: false },
  /** Postgres can't be reached, or ended the connection. */
  POSTGRES_UNAVAILABLE: { exit: exit.unavailable, retry: true },
  /** Postgres refused what we asked of it. */
  POSTGRES_REFUSED: { exit: exit.environment, retry: false },
  /** Another process reads the slot. */
  SLOT_ACTIVE: { exit: exit.unavailable, retry: true },
  /** The slot is gone or invalidated: changes since the last confirmed one can't be had from it. */
  SLOT_LOST: { exit: exit.historyBroken, retry: false },
  /** Postgres sent bytes that the protocol doesn't allow. */
  BAD_REPLICATION_DATA: { exit: exit.failed, retry: false },
  /** The change log holds bytes that are not what was written. */
  LOG_CORRUPT: { exit: exit.environment, retry: false },
  /** The database and the change log hold different histories. */
  HISTORY_DIVERGED: { exit: exit.historyBroken, retry: false },
  /** A subscriber's position belongs to a history that this log does not hold. */
  HISTORY_BROKEN: { exit: exit.historyBroken, retry: false },
  /** A subscriber's position is older than what the log keeps. */
  POSITION_TOO_OLD: { exit: exit.historyBroken, retry: false },
  /** The peer broke the protocol. */
  PROTOCOL_VIOLATION: { exit: exit.failed, retry: false },
  /** The peer speaks no protocol version that we speak. */
  UNSUPPORTED_VERSION: { exit: exit.usage, retry: false },
  /** The peer's request is well formed but can't be met, for instance an unknown operation or a bad pattern. */
  BAD_REQUEST: { exit: exit.usage, retry: false },
  /** A bound on connections, subscriptions or consumers is reached. */
  TOO_MANY: { exit: exit.unavailable, retry: true },
  /** A durable consumer of this name is already connected. */
  CONSUMER_BUSY: { exit: exit.unavailable, retry: true },
  /** The service is stopping; it may come back. */
  SHUTDOWN: { exit: exit.unavailable, retry: true },
  /** The service can't be reached over the network, or the connection was lost. */
  UNREACHABLE: { exit: exit.unavailable, retry: true },
  /** The TLS handshake failed: a certificate that the other side does not accept. */
  UNAUTHENTICATED: { exit: exit.environment, retry: false },
  /** A child process ended when it should not have. */
  CHILD_FAILED: { exit: exit.failed, retry: true },
  /** A wait reached its deadline. */
  TIMEOUT: { exit: exit.unavailable, retry: true },
  /** The certificate is right, and its role does not allow this. */
  FORBIDDEN: { exit: exit.environment, retry: false },
  /** What is asked for by name is not there. */
  NOT_FOUND: { exit: exit.failed, retry: false },
  /** A later generation has sealed or attached the sink: whoever asks is no longer the primary. */
  STALE_GENERATION: { exit: exit.historyBroken, retry: false },
  /** Another box has claimed this generation. */
  GENERATION_TAKEN: { exit: exit.historyBroken, retry: false },
  /** A sink takes a new primary only from the generation that sealed it. */
  NOT_SEALED: { exit: exit.failed, retry: false },
  /** The server is another cluster than the one whose WAL is kept. */
  WRONG_SYSTEM: { exit: exit.environment, retry: false },
  /** WAL that is kept is not what a server wrote: it is put aside and not served. */
  WAL_CORRUPT: { exit: exit.environment, retry: false },
  /** A sink holds less than it has confirmed: its disk was wiped or put back. */
  DATA_LOST: { exit: exit.historyBroken, retry: false },
  /** A fault of this program. */
  INTERNAL: { exit: exit.failed, retry: false },
} as const satisfies Record<string, Code>

export type ErrorCode = keyof typeof codes

export type Facts = Readonly<Record<string, string | number | bigint | boolean | undefined>>

/**
 * An error with a stable code. `message` is one sentence: what, where, what to do.
 * `facts` holds the values that a program may want (lsn, slot, path, port).
 */
export class BeyondError extends Error {
  readonly code: ErrorCode
  readonly facts: Facts

  constructor(code: ErrorCode, message: string, options: { cause?: unknown; facts?: Facts } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'BeyondError'
    this.code = code
    this.facts = options.facts ?? {}
  }

  get exitCode(): number {
    return codes[this.code].exit
  }

  get retry(): boolean {
    return codes[this.code].retry
  }
}

/** The error's own code, INTERNAL for everything that is not ours. */
export function codeOf(error: unknown): ErrorCode {
  return error instanceof BeyondError ? error.code : 'INTERNAL'
}

/** Errors of the operating system, turned into ours where the cause is plain. */
export function fromSystem(error: unknown, doing: string): BeyondError {
  if (error instanceof BeyondError) return error
  const { code, message, path } = error as NodeJS.ErrnoException
  const facts = { path }
  switch (code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return new BeyondError('DISK_FULL', `The disk is full while ${doing}: make room and start again.`, { cause: error, facts })
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new BeyondError('NO_PERMISSION', `No permission while ${doing}${path ? ` (${path})` : ''}.`, { cause: error, facts })
    default:
      return new BeyondError('INTERNAL', `Failed while ${doing}: ${message ?? String(error)}`, { cause: error, facts })
  }
}

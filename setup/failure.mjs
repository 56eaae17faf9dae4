// How set-up fails: one sentence for a person, one exit code for a program. The codes are those of src/errors.ts.

export const exit = { failed: 1, usage: 2, environment: 5, interrupted: 130, terminated: 143 }

/** A failure whose message says what is wrong and what to do about it, in one sentence. */
export class SetupFailure extends Error {
  /**
   * @param {string} message
   * @param {number} [exitCode]
   */
  constructor(message, exitCode = exit.environment) {
    super(message)
    this.name = 'SetupFailure'
    this.exitCode = exitCode
  }
}

/** Failures that every tool words alike. @type {readonly (readonly [RegExp, (doing: string) => string])[]} */
const common = [
  [/No space left on device|ENOSPC|EDQUOT|Disk quota exceeded|enough free space/i, (doing) => `The disk is full while ${doing}: make room and start again.`],
  [/EACCES|EPERM|Permission denied|Operation not permitted|EROFS|Read-only file system/i,
    (doing) => `No permission while ${doing}: run it as the owner of this folder, or set BEYOND_PG_CACHE to a folder that you may write to.`],
]

/**
 * The sentence for what the operating system or a tool said, when it is a failure that every tool words alike.
 * @param {string} output
 * @param {string} doing what was being done, as in "while …"
 * @returns {string | undefined}
 */
export function commonSentence(output, doing) {
  return common.find(([pattern]) => pattern.test(output))?.[1](doing)
}

/**
 * @param {unknown} error
 * @param {string} doing
 * @returns {SetupFailure}
 */
export function asFailure(error, doing) {
  if (error instanceof SetupFailure) return error
  const { code = '', path } = /** @type {NodeJS.ErrnoException} */ (error instanceof Error ? error : {})
  const text = error instanceof Error ? `${code} ${error.message}` : String(error)
  if (path !== undefined) doing += ` (${path})`
  return new SetupFailure(commonSentence(text, doing) ?? `Set-up failed while ${doing}: ${text.trim()}.`)
}

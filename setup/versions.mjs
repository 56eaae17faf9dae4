// Versions, read from what programs say of themselves.

/** @typedef {readonly [major: number, minor: number]} Version */

/**
 * @param {string} text such as "postgres (PostgreSQL) 18.6 (Debian 18.6-1)", "PgBouncer 1.24.1", "v26.1.0", "postgres (PostgreSQL) 19devel"
 * @returns {Version | undefined}
 */
export function versionIn(text) {
  const match = /(?:^|[\sv])(\d+)(?:\.(\d+))?/.exec(text)
  return match ? [Number(match[1]), Number(match[2] ?? 0)] : undefined
}

/**
 * @param {Version} version
 * @param {Version} least
 */
export function atLeast(version, least) {
  return version[0] > least[0] || (version[0] === least[0] && version[1] >= least[1])
}

/** @param {Version} version */
export const formatVersion = (version) => version.join('.')

/** The Node that set-up itself needs. @type {Version} */
export const leastSetupNode = [20, 0]
/** The Node that the programs need, for its OpenSSL. @type {Version} */
export const leastNode = [24, 5]
/** @type {Version} */
export const leastPgbouncer = [1, 24]
export const postgresMajor = 18

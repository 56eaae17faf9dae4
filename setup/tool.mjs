// Runs a development tool of node_modules in the foreground.

import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { root } from './ensure.mjs'

/**
 * @param {string} script below node_modules
 * @param {readonly string[]} args
 * @returns {boolean} whether it was content
 */
export function tool(script, args) {
  const { status, error } = spawnSync(process.execPath, [join(root, 'node_modules', script), ...args], { cwd: root, stdio: 'inherit' })
  if (error) throw error
  return status === 0
}

export const compiler = 'typescript/bin/tsc'
export const linter = 'oxlint/bin/oxlint'

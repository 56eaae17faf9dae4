// npm run lint: types and rules.

import { compiler, linter, tool } from './tool.mjs'

/** @returns {boolean} whether both found nothing */
export function lint() {
  const typed = tool(compiler, ['--noEmit'])
  const clean = tool(linter, ['--deny-warnings', '--no-error-on-unmatched-pattern'])
  return typed && clean
}

if (import.meta.main) process.exit(lint() ? 0 : 1)

// What the commands do: in a clone, run the source on the clone's own Node; in an installed package, run what was built from it.
// In a clone this runs on any Node that set-up supports.

import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** Programs that talk to a running box, so that they need no Postgres of their own. */
const needNoPostgres = ['beyond-pg-cdc']

/** @param {string} name of the executable in src/ or dist/, without its ending */
export async function runExecutable(name) {
  const root = dirname(dirname(fileURLToPath(import.meta.url)))
  const setup = join(root, 'setup/run.mjs')
  if (existsSync(setup)) {
    process.argv.splice(2, 0, ...(needNoPostgres.includes(name) ? ['--packages-only'] : []), `src/${name}.ts`)
    await import(setup)
    return
  }
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  if (major < 24 || (major === 24 && minor < 5)) {
    process.stderr.write(`${name}: Node 24.5 or later is needed and this is ${process.versions.node}: install a newer one.\n`)
    process.exit(5)
  }
  await import(join(root, `dist/${name}.js`))
}

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { routes } from '../../src/sink/http-routes.ts'

test('docs/sink-api.yaml has the paths and methods that are served, no more and no less', () => {
  const names: Record<string, string> = { segments: '000000010000000000000003', histories: '00000002.history', pins: 'base' }
  const documented: string[] = []
  let path = ''
  for (const line of readFileSync(join(import.meta.dirname, '../../docs/sink-api.yaml'), 'utf8').split('\ncomponents:')[0].split('\n')) {
    path = /^ {2}(\/\S*):$/.exec(line)?.[1] ?? path
    const method = /^ {4}(get|put|post|delete):$/.exec(line)?.[1]
    if (method === undefined) continue
    const asked = `/v1${path.replace(/^\/(\w+)\/\{name\}$/, (_, kind: string) => `/${kind}/${names[kind]}`)}`
    const route = routes.find((each) => each.method === method.toUpperCase() && each.path.test(asked))
    assert.ok(route, `${method} ${path}`)
    documented.push(`${route.method} ${route.path}`)
  }
  assert.deepEqual(documented.sort(), routes.map((route) => `${route.method} ${route.path}`).sort())
})

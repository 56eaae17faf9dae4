import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { matchesLockfile, npmSentence } from '../../setup/npm-packages.mjs'

const root = join(import.meta.dirname, '../..')

const said: [string, RegExp][] = [
  ['npm error code ENOTFOUND\nnpm error network request failed', /can't reach its package registry \(ENOTFOUND\): check the network/],
  ['npm ERR! code EAI_AGAIN\nnpm ERR! request to …', /can't reach/],
  ['npm error code ECONNREFUSED', /can't reach/],
  ['npm error code E503', /can't reach/],
  ['npm error code E401', /refuses us/],
  ['npm error code E404', /lacks a package/],
  ['npm error code EINTEGRITY', /not the lockfile's/],
  ['npm error code EUSAGE', /does not belong to package.json/],
  ['npm error code ENOSPC\nnpm error nospc', /^The disk is full/],
  ['npm error code EACCES\nnpm error syscall mkdir', /^No permission/],
  ['spawn npm ENOENT', /^npm was not found/],
  ['npm error something new', /could not install the packages: something new\./],
  ['', /it gave no reason/],
]
for (const [output, sentence] of said) {
  test(`npm said: ${output.split('\n')[0]}`, () => {
    const text = npmSentence(output)
    assert.match(text, sentence)
    assert.doesNotMatch(text, /\n/)
  })
}

const lock = (packages: object) => JSON.stringify({ packages })

test('packages that npm installed by itself are taken as they are, when they are the right ones', () => {
  const one = { version: '1.0.0', integrity: 'a' }
  const wanted = lock({ '': { name: 'x' }, 'node_modules/a': one, 'node_modules/mac-only': { ...one, optional: true } })
  assert.equal(matchesLockfile(wanted, lock({ 'node_modules/a': one })), true)
  assert.equal(matchesLockfile(wanted, undefined), false)
  assert.equal(matchesLockfile(wanted, '{'), false)
  assert.equal(matchesLockfile(wanted, lock({})), false)
  assert.equal(matchesLockfile(wanted, lock({ 'node_modules/a': { ...one, version: '1.0.1' } })), false)
  assert.equal(matchesLockfile(wanted, lock({ 'node_modules/a': one, 'node_modules/b': one })), false)
})

test('the lockfile is whole: each optional package of each platform is in it', () => {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'))
  const optional = Object.values<{ optionalDependencies?: Record<string, string> }>(packages).flatMap((each) => Object.keys(each.optionalDependencies ?? {}))
  assert.deepEqual(optional.filter((name) => !packages[`node_modules/${name}`] && !name.startsWith('pg-cloudflare')), [])
})

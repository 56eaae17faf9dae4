import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BeyondError } from '../../src/errors.ts'
import { chooseAccount, parsePasswd, withAncestors } from '../../src/manage/account.ts'

test('an ordinary user is himself, root becomes postgres or nobody', () => {
  const passwd = parsePasswd('root:x:0:0::/:/bin/sh\nbroken\nnobody:x:65534:65534:::\nada:x:1000:1001:::\n')
  assert.deepEqual(chooseAccount({ uid: 1000, gid: 1001 }, passwd, undefined), { uid: 1000, gid: 1001, name: 'ada', separate: false })
  assert.deepEqual(chooseAccount({ uid: 4, gid: 4 }, passwd, undefined).name, 'uid 4')
  const root = { uid: 0, gid: 0 }
  assert.deepEqual(chooseAccount(root, passwd, undefined), { uid: 65534, gid: 65534, name: 'nobody', separate: true })
  const later = [...passwd, { name: 'postgres', uid: 101, gid: 104 }]
  assert.equal(chooseAccount(root, later, undefined).name, 'postgres')
  assert.equal(chooseAccount(root, later, 65534).name, 'nobody', 'data that exists keeps its account')
  assert.equal(chooseAccount(root, later, 1000).name, 'postgres', 'but only one of ours')
  assert.throws(() => chooseAccount(root, [], undefined), BeyondError)
  assert.deepEqual(withAncestors('/a/b'), ['/', '/a', '/a/b'])
})

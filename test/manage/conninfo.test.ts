import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { formatConninfo, parseConninfo, passfileLine, withoutPassword } from '../../src/manage/conninfo.ts'

test('reads both forms of libpq', () => {
  assert.deepEqual(parseConninfo("host=db1  port = 5432 user='a b' password='it\\'s \\\\'"), { host: 'db1', port: '5432', user: 'a b', password: "it's \\" })
  assert.deepEqual(parseConninfo('postgresql://ann:p%40ss@db1:6000/shop?sslmode=require'), {
    host: 'db1',
    port: '6000',
    user: 'ann',
    password: 'p@ss',
    dbname: 'shop',
    sslmode: 'require',
  })
  assert.deepEqual(parseConninfo('postgres://[::1]/'), { host: '::1' })
  assert.deepEqual(parseConninfo('host=/run/sockets user=x'), { host: '/run/sockets', user: 'x' })
})

test('what is neither is refused', () => {
  for (const text of ['', 'db1', 'user=x', "host='open", 'host=a b', 'postgres://', 'host=', 'http://db1/']) assert.equal(parseConninfo(text), undefined, text)
})

test('a string that was written is read back', () => {
  const value = fc.string({ minLength: 1 }).filter((text) => !text.includes('\0'))
  fc.assert(
    fc.property(value, value, (host, password) => {
      assert.deepEqual(parseConninfo(formatConninfo({ host, password })), { host, password })
    }),
  )
})

test('passwords stay out of what is shown, and are escaped where they go', () => {
  assert.deepEqual(withoutPassword({ host: 'a', password: 'b' }), { host: 'a' })
  assert.equal(passfileLine('a:b\\c'), '*:*:*:*:a\\:b\\\\c\n')
})

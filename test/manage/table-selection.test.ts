import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseTableList } from '../../src/manage/table-selection.ts'

test('reads lists of tables as SQL spells them', () => {
  assert.deepEqual(parseTableList('shop.orders'), { tables: [{ schema: 'shop', table: 'orders' }], schemas: [] })
  assert.deepEqual(parseTableList('Orders, APP.*'), { tables: [{ schema: 'public', table: 'orders' }], schemas: ['app'] })
  assert.deepEqual(parseTableList('"Odd ""Name", Shop."a.b,c"'), {
    tables: [
      { schema: 'public', table: 'Odd "Name' },
      { schema: 'shop', table: 'a.b,c' },
    ],
    schemas: [],
  })
})

test('refuses what is no such list', () => {
  for (const text of ['', ' ', '*', 'a.b.c', 'a..b', 'a b', ',', '"open', '1a', "a'b", 'a;b']) assert.equal(parseTableList(text), undefined, text)
})

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { formatLsn, lsnFromServer, LSN_ZERO, maxLsn, parseLsn, toLsn } from '../../src/wal/lsn.ts'

describe('an LSN', () => {
  const table: [string, bigint][] = [
    ['0/0', 0n],
    ['0/1', 1n],
    ['0/FFFFFFFF', 0xffffffffn],
    ['1/0', 0x1_0000_0000n],
    ['16/B374D848', 0x16_b374_d848n],
    ['FFFFFFFF/FFFFFFFF', 0xffff_ffff_ffff_ffffn],
  ]
  for (const [text, value] of table)
    it(`${text} is ${value}, both ways`, () => {
      assert.equal(parseLsn(text), value)
      assert.equal(formatLsn(toLsn(value)), text)
    })

  it('may be written in small letters and with zeros in front', () => {
    assert.equal(parseLsn('16/b374d848'), 0x16_b374_d848n)
    assert.equal(parseLsn('00000016/0000000A'), 0x16_0000_000an)
  })

  for (const text of ['', '/', '0', '0/', '/0', '0/0/0', '123456789/0', '0/123456789', 'G/0', ' 0/0', '0/0\n', '-1/0', '0x1/0'])
    it(`is not ${JSON.stringify(text)}`, () => {
      assert.equal(parseLsn(text), undefined)
      assert.throws(() => lsnFromServer(text), TypeError)
    })

  it('of any value is read as it was printed', () => {
    fc.assert(fc.property(fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), (value) => assert.equal(lsnFromServer(formatLsn(toLsn(value))), value)))
  })

  it('is ordered as a number', () => {
    assert.equal(maxLsn(toLsn(0x9_0000_0000n), toLsn(0x10_0000_0000n)), 0x10_0000_0000n)
    assert.equal(maxLsn(LSN_ZERO, LSN_ZERO), LSN_ZERO)
  })
})

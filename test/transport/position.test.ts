import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { formatPosition, parsePosition } from '../../src/transport/position.ts'
import { toLsn } from '../../src/wal/lsn.ts'

const chain = '0123456789abcdef'.repeat(4)

describe('the text of a position', () => {
  it('is read and written alike', () => {
    const lsn = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(toLsn)
    const after = fc.record({ lsn, chain: fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes)) }, { noNullPrototype: true })
    const partial = fc.option(fc.record({ lsn, index: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }) }, { noNullPrototype: true }), { nil: undefined })
    fc.assert(
      fc.property(after, partial, (whole, part) => {
        const position = part ? { after: whole, partial: part } : { after: whole }
        assert.deepEqual(parsePosition(formatPosition(position)), position)
      }),
    )
  })

  it('looks as documented', () => {
    assert.equal(formatPosition(parsePosition(`16/B374D848:${chain}+3@16/B374D900`)), `16/B374D848:${chain}+3@16/B374D900`)
    assert.equal(formatPosition(parsePosition(`0/1:${chain}+3@0/2@1763804400123456`)), `0/1:${chain}+3@0/2@1763804400123456`)
    assert.equal(formatPosition(parsePosition(`16/b374d848:${chain.toUpperCase()}`)), `16/B374D848:${chain}`)
  })

  for (const text of ['', 'now', `16:${chain}`, `16/0:${chain.slice(1)}`, `16/0:${chain}+0@16/1`, `16/0:${chain}+1`, `16/0:${chain}+1@x`, `16/0:${chain}+1@16/1@`, `16/0:${chain}+1@16/1@x`, `16/0:${chain}+99999999999999999@16/1`])
    it(`${JSON.stringify(text)} is none`, () => assert.throws(() => parsePosition(text), { code: 'BAD_ARGUMENT' }))

  it('needs its chain hash, and the refusal says why', () => {
    assert.throws(() => parsePosition('16/B374D848'), (error: Error) => /without its chain hash/.test(error.message))
  })
})

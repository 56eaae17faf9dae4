import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { displayWidth, fit, printable, renderLine, wantsColor } from '../../src/cli/terminal.ts'

describe('text for a terminal', () => {
  it('holds nothing that the terminal would obey', () => {
    assert.equal(printable('a\nb\t\x1b[31mred\x07\x9b\u202e\ud800 ok 😀'), 'a\\nb\\t\\e[31mred\\u0007\\u009b\\u202e\\ud800 ok 😀')
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        // oxlint-disable-next-line no-control-regex
        assert.doesNotMatch(printable(text), /[\x00-\x1f\x7f-\x9f]/)
      }),
    )
  })

  it('is measured in columns', () => {
    assert.deepEqual(['abc', '日本', 'e\u0301', '😀', ''].map(displayWidth), [3, 4, 1, 2, 0])
  })

  it('is cut to fit, never in the middle of a character', () => {
    assert.deepEqual(
      [fit('abcdef', 6), fit('abcdef', 5), fit('日本語', 5), fit('日本語', 4), fit('😀😀', 3), fit('ab', 1), fit('ab', 0)],
      ['abcdef', 'abcd…', '日本…', '日…', '😀…', '…', ''],
    )
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), fc.nat(30), (text, columns) => {
        const cut = fit(printable(text), columns)
        assert.ok(displayWidth(cut) <= columns)
        if (displayWidth(printable(text)) <= columns) assert.equal(cut, printable(text))
      }),
    )
  })

  it('is coloured piece by piece, and cut across them', () => {
    const pieces = [['ab', 'red'], ['cd'], ['ef', 'bold']] as const
    assert.equal(renderLine(pieces, { columns: Infinity, color: true }), '\x1b[31mab\x1b[0mcd\x1b[1mef\x1b[0m')
    assert.equal(renderLine(pieces, { columns: 3, color: false }), 'ab…')
    assert.equal(renderLine(pieces, { columns: 6, color: false }), 'abcdef')
  })

  it('is coloured when it should be', () => {
    const tty = { isTTY: true }
    assert.equal(wantsColor('auto', tty, {}), true)
    assert.equal(wantsColor('auto', {}, {}), false)
    assert.equal(wantsColor('auto', tty, { NO_COLOR: '1' }), false)
    assert.equal(wantsColor('auto', tty, { NO_COLOR: '' }), true)
    assert.equal(wantsColor('auto', tty, { TERM: 'dumb' }), false)
    assert.equal(wantsColor('always', {}, { NO_COLOR: '1' }), true)
    assert.equal(wantsColor('never', tty, {}), false)
  })
})

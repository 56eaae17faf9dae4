import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TailCache } from '../../src/log/tail-cache.ts'
import type { BlockHeader } from '../../src/log/block.ts'

const header = {} as BlockHeader
const block = (start: number, length: number) => ({ start, end: start + 84 + length, header, payload: Buffer.allocUnsafeSlow(length) })

test('blocks are found by their beginning, also behind the header of a segment', () => {
  const cache = new TailCache(1_000_000)
  const blocks = [block(96, 16), block(196, 16), block(392, 16)]
  for (const each of blocks) cache.push(each)
  assert.equal(cache.at(95), undefined)
  assert.equal(cache.at(96), blocks[0])
  assert.equal(cache.at(196), blocks[1])
  assert.equal(cache.at(296), blocks[2])
  assert.equal(cache.at(393), undefined)
  cache.cut(296)
  assert.equal(cache.at(196), blocks[1])
  assert.equal(cache.at(296), undefined)
})

test('memory is bounded: also by marks, which have no payload, and by views of large buffers', () => {
  const cache = new TailCache(100_000)
  let start = 0
  const push = (each: ReturnType<typeof block>) => {
    cache.push(each)
    start = each.end
    assert.ok(cache.bytes <= 100_000)
  }
  for (let i = 0; i < 5_000; i++) push(block(start, 0))
  let kept = 0
  for (let offset = 0; offset < start; offset += 84) if (cache.at(offset)?.start === offset) kept++
  assert.ok(kept > 30 && kept < 100, `${kept}`)
  for (let i = 0; i < 10; i++) push({ ...block(start, 10), payload: Buffer.allocUnsafeSlow(30_000).subarray(0, 10) })
  assert.equal(cache.at(start - 94 * 4), undefined)
  assert.equal(cache.at(start - 94 * 3)?.start, start - 94 * 3)
})

test('a block larger than the cache is left to the file, and so is what came before it', () => {
  const cache = new TailCache(4_000)
  cache.push(block(0, 100))
  cache.push(block(184, 5_000))
  assert.equal(cache.at(0), undefined)
  assert.equal(cache.at(184), undefined)
  assert.equal(cache.bytes, 0)
  cache.push(block(5_268, 100))
  assert.equal(cache.at(184), undefined)
  assert.equal(cache.at(5_268)?.start, 5_268)
})

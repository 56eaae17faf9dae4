/** The scanner against pg_waldump on real WAL: the same records, however the bytes come; and the same end, whatever is wrong there. */
import assert from 'node:assert/strict'
import { cpSync, linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { toLsn, type Lsn } from '../../src/wal/lsn.ts'
import { segmentFileName, segmentOf, segmentStart } from '../../src/wal/segment-name.ts'
import type { Timeline } from '../../src/wal/timeline.ts'
import { startPostgres } from '../support/postgres.ts'
import { temporaryDirectory } from '../support/sink.ts'
import { beBusy, busySettings, type DumpedRecord, scanFolder, segmentNames, waldump, walFolder, type WalFolder } from './wal-files.ts'

const PAGE = 8192
const MB = 1024 * 1024

/** Small and reproducible. */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

const inPage = (lsn: Lsn): number => Number(lsn % BigInt(PAGE))
const endOf = ({ lsn, bytes }: DumpedRecord): Lsn => {
  // Only for records within one page.
  return toLsn(lsn + BigInt((bytes + 7) & ~7))
}

for (const segmentMb of [1, 16])
  describe(`segments of ${segmentMb} MB`, () => {
    const folder = temporaryDirectory()
    let wal: WalFolder
    let records: DumpedRecord[]

    before(async () => {
      await using postgres = await startPostgres(busySettings, ['--wal-segsize', String(segmentMb)])
      await beBusy(postgres, segmentMb === 1 ? 3_000 : 10_000)
      const known = await walFolder(postgres)
      // Stopped at once, so that the end is whatever it is.
      await postgres.stop('SIGQUIT')
      const directory = join(folder.path, 'wal')
      mkdirSync(directory)
      for (const name of segmentNames(known.directory)) cpSync(join(known.directory, name), join(directory, name))
      const first = BigInt(`0x${segmentNames(directory)[0].slice(16)}`)
      wal = { ...known, directory, first }
      records = waldump(wal)
    })
    after(() => folder[Symbol.dispose]())

    it('finds the records that pg_waldump finds, of every kind', () => {
      const began = performance.now()
      const scanner = scanFolder(wal)
      const ms = performance.now() - began
      const megabytes = Number(scanner.validEnd - segmentStart(wal.first, wal.segmentBytes)) / MB
      assert.equal(scanner.records, records.length)
      assert.equal(scanner.lastRecord, records.at(-1)?.lsn)
      assert.equal(scanner.fault?.kind, 'length')
      const kinds = new Set(records.map(({ rmgr }) => rmgr))
      for (const kind of ['XLOG', 'Transaction', 'Database', 'MultiXact', 'Standby', 'Heap', 'Heap2', 'Btree', 'Hash', 'Gin', 'Gist', 'Sequence', 'SPGist', 'BRIN', 'LogicalMessage'])
        assert.ok(kinds.has(kind), `no record of ${kind}`)
      console.log(`# ${records.length} records of ${kinds.size} kinds, ${megabytes.toFixed(0)} MB at ${((megabytes / ms) * 1000).toFixed(0)} MB/s`)
    })

    it('finds the same in pieces of any size', () => {
      const seed = Date.now() & 0xffff
      console.log(`# seed ${seed}`)
      const random = seeded(seed)
      const whole = scanFolder(wal)
      for (const most of [64 * 1024, 8192, 3_000]) {
        const scanner = scanFolder(wal, () => 1 + Math.floor(random() * most))
        assert.deepEqual([scanner.records, scanner.validEnd, scanner.lastRecord], [whole.records, whole.validEnd, whole.lastRecord])
      }
    })

    // The shapes are the same in any size, and small files are quicker.
    if (segmentMb !== 1) return

    /** The WAL with one segment edited and nothing after the segment behind it, in a folder of its own. */
    function edited(at: Lsn, edit: (bytes: Buffer, at: number) => void): WalFolder {
      const directory = join(folder.path, 'edited')
      rmSync(directory, { recursive: true, force: true })
      mkdirSync(directory)
      const number = segmentOf(at, wal.segmentBytes)
      const first = number > wal.first ? number - 1n : number
      for (const each of [first, number, number + 1n]) {
        const name = segmentFileName({ timeline: 1 as Timeline, number: each }, wal.segmentBytes)
        try {
          if (each === number) cpSync(join(wal.directory, name), join(directory, name))
          else linkSync(join(wal.directory, name), join(directory, name))
        } catch {
          // The last one.
        }
      }
      const path = join(directory, segmentFileName({ timeline: 1 as Timeline, number }, wal.segmentBytes))
      const bytes = readFileSync(path)
      edit(bytes, Number(at - segmentStart(number, wal.segmentBytes)))
      writeFileSync(path, bytes)
      return { ...wal, directory, first }
    }

    /** As pg_receivewal makes it before anything comes. pg_waldump would wait for one that is missing. */
    function emptyNext(changed: WalFolder, number: bigint): void {
      const path = join(changed.directory, segmentFileName({ timeline: 1 as Timeline, number: number + 1n }, wal.segmentBytes))
      rmSync(path)
      writeFileSync(path, Buffer.alloc(wal.segmentBytes))
    }

    function compare(changed: WalFolder, last: Lsn | undefined): void {
      const theirs = waldump(changed)
      const scanner = scanFolder(changed)
      assert.equal(scanner.lastRecord, theirs.at(-1)?.lsn)
      assert.equal(scanner.records, theirs.length)
      if (last !== undefined) assert.equal(scanner.lastRecord, last)
    }

    /** Index of the first record in the later half that is as `wanted`, and follows one of the same segment. */
    function find(wanted: (record: DumpedRecord) => boolean): number {
      for (let i = Math.floor(records.length / 2); i < records.length - 5; i++)
        if (wanted(records[i]) && segmentOf(records[i].lsn, wal.segmentBytes) === segmentOf(records[i - 1].lsn, wal.segmentBytes)) return i
      throw new Error('no such record in this WAL')
    }
    const onOnePage = (record: DumpedRecord) => inPage(record.lsn) > 100 && inPage(record.lsn) + record.bytes < PAGE - 100
    const crossing = (record: DumpedRecord) =>
      inPage(record.lsn) + 24 <= PAGE && inPage(record.lsn) + record.bytes > PAGE && segmentOf(record.lsn, wal.segmentBytes) === segmentOf(toLsn(record.lsn + BigInt(record.bytes + PAGE)), wal.segmentBytes)
    const split = (record: DumpedRecord) =>
      inPage(record.lsn) + 24 > PAGE && segmentOf(record.lsn, wal.segmentBytes) === segmentOf(toLsn(record.lsn + BigInt(record.bytes + PAGE)), wal.segmentBytes)

    const zeroFrom = (bytes: Buffer, at: number) => bytes.fill(0, at)
    const atRecord: Record<string, (bytes: Buffer, at: number) => void> = {
      '1 record length zero': zeroFrom,
      '2 record length below a header': (bytes, at) => {
        zeroFrom(bytes, at)
        bytes.writeUInt32LE(10, at)
      },
      '3 wrong back link of a record that needs more pages': (bytes, at) => {
        bytes.writeUInt32LE(20_000, at)
        bytes.writeBigUInt64LE(0xdeadn, at + 8)
      },
      '4 wrong checksum': (bytes, at) => bytes.writeUInt8(bytes[at + 20] ^ 1, at + 20),
      'a resource manager that does not exist': (bytes, at) => bytes.writeUInt8(99, at + 17),
      'one bit of the data': (bytes, at) => {
        bytes[at + 25] ^= 0x10
      },
    }
    for (const [name, edit] of Object.entries(atRecord))
      it(`ends there: ${name}`, () => {
        const i = find(onOnePage)
        compare(edited(records[i].lsn, edit), records[i - 1].lsn)
      })

    const nextPage = (at: number) => at - (at % PAGE) + PAGE
    const pages: Record<string, (bytes: Buffer, page: number) => void> = {
      'next page zero': (bytes, page) => zeroFrom(bytes, page),
      'next page garbage': (bytes, page) => bytes.writeUInt16LE(0xbeef, page),
      'next page recycled': (bytes, page) => bytes.writeBigUInt64LE(bytes.readBigUInt64LE(page + 8) - BigInt(wal.segmentBytes), page + 8),
      'undefined info bits': (bytes, page) => bytes.writeUInt16LE(bytes.readUInt16LE(page + 2) | 0x8000, page + 2),
      'no continuation flag': (bytes, page) => bytes.writeUInt16LE(bytes.readUInt16LE(page + 2) & ~1, page + 2),
      'remaining length that does not add up': (bytes, page) => bytes.writeUInt32LE(bytes.readUInt32LE(page + 16) + 8, page + 16),
    }
    for (const [kind, record] of [['continues on', crossing], ['has its header split by', split]] as const)
      for (const [name, edit] of Object.entries(pages))
        it(`ends before a record that ${kind} the next page: ${name}`, () => {
          const i = find(record)
          compare(edited(records[i].lsn, (bytes, at) => edit(bytes, nextPage(at))), records[i - 1].lsn)
        })

    it('14 header split with a valid rest, then zeros', () => {
      const i = find((record) => split(record) && records[records.indexOf(record) + 1].rmgr !== 'XLOG')
      compare(edited(records[i + 1].lsn, zeroFrom), records[i].lsn)
    })

    it('15, 16 before a segment switch, and after it', () => {
      const i = records.findIndex(({ description }) => description.startsWith('SWITCH'))
      assert.ok(i > 0)
      compare(edited(records[i].lsn, zeroFrom), records[i - 1].lsn)
      const number = segmentOf(records[i].lsn, wal.segmentBytes)
      const changed = edited(records[i].lsn, () => {})
      emptyNext(changed, number)
      compare(changed, records[i].lsn)
      assert.equal(scanFolder(changed).validEnd, segmentStart(number + 1n, wal.segmentBytes))
    })

    it('17, 18 a record that crosses a segment border, without its rest and with it', () => {
      const i = records.findIndex((record, index) => index > 10 && segmentOf(record.lsn, wal.segmentBytes) < segmentOf(toLsn(records[index + 1]?.lsn ?? 0n), wal.segmentBytes) && !record.description.startsWith('SWITCH') && inPage(record.lsn) + record.bytes > PAGE)
      assert.ok(i > 0)
      const number = segmentOf(records[i].lsn, wal.segmentBytes)
      const changed = edited(records[i].lsn, () => {})
      emptyNext(changed, number)
      compare(changed, records[i - 1].lsn)
      compare(edited(records[i + 1].lsn, zeroFrom), records[i].lsn)
    })

    it('19 the last record ends exactly on a page border', () => {
      const i = records.findIndex((record, index) => index > 10 && index < records.length - 2 && inPage(endOf(record)) === 0 && segmentOf(endOf(record), wal.segmentBytes) === segmentOf(record.lsn, wal.segmentBytes) && inPage(record.lsn) + record.bytes <= PAGE)
      assert.ok(i > 0)
      compare(edited(endOf(records[i]), zeroFrom), records[i].lsn)
    })

    it('tells another cluster, another segment size and another timeline', () => {
      const start = segmentStart(wal.first, wal.segmentBytes)
      assert.equal(scanFolder({ ...wal, systemId: wal.systemId + 1n }).fault?.kind, 'system-id')
      const changed = edited(start, (bytes) => bytes.writeUInt32LE(2, 4))
      assert.equal(scanFolder(changed).fault?.kind, 'timeline')
      assert.equal(scanFolder(edited(start, (bytes) => bytes.writeUInt32LE(wal.segmentBytes * 2, 32))).fault?.kind, 'segment-size')
    })
  })

it('goes on behind a record that a crash cut off', async () => {
  await using postgres = await startPostgres(busySettings, ['--wal-segsize', '1'])
  using folder = temporaryDirectory()
  await postgres.query('CREATE TABLE t (id int)')
  await postgres.query('CHECKPOINT')
  await postgres.query(`SELECT pg_logical_emit_message(false, 'cut', repeat('x', 100000), true)`)
  const known = await walFolder(postgres)
  await postgres.stop('SIGQUIT')
  const first = BigInt(`0x${segmentNames(known.directory)[0].slice(16)}`)
  const cut = waldump({ ...known, first }).findLast(({ rmgr, bytes }) => rmgr === 'LogicalMessage' && bytes > 100_000)
  assert.ok(cut)
  // Only its first pages have reached the disk.
  const from = toLsn(cut.lsn - (cut.lsn % BigInt(PAGE)) + BigInt(3 * PAGE))
  for (const name of segmentNames(known.directory)) {
    const number = BigInt(`0x${name.slice(16)}`) + BigInt(`0x${name.slice(8, 16)}`) * 4096n
    const start = segmentStart(number, known.segmentBytes)
    const path = join(known.directory, name)
    if (start + BigInt(known.segmentBytes) <= from) continue
    const bytes = readFileSync(path)
    writeFileSync(path, bytes.fill(0, start >= from ? 0 : Number(from - start)))
  }
  await postgres.start()
  await postgres.query('INSERT INTO t VALUES (1)')
  await postgres.stop('SIGQUIT')
  const wal = { ...known, first }
  cpSync(known.directory, join(folder.path, 'wal'), { recursive: true })
  const records = waldump({ ...known, first })
  assert.ok(records.some(({ description }) => description.startsWith('OVERWRITE_CONTRECORD')))
  const scanner = scanFolder(wal)
  assert.equal(scanner.records, records.length)
  assert.equal(scanner.lastRecord, records.at(-1)?.lsn)
})

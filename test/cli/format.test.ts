import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { ChangeFormatter } from '../../src/cli/format-change.ts'
import { jsonLine, shortestFloat4 } from '../../src/cli/format-json.ts'
import { jsonStatus, shownBytes, shownDuration, statusText } from '../../src/cli/format-status.ts'
import type { ChangeEvent, Status } from '../../src/transport/client.ts'
import { ClientSession } from '../../src/transport/client-session.ts'
import { toLsn } from '../../src/wal/lsn.ts'
import {
  GENESIS,
  messageFrame,
  progressFrame,
  TestHistory,
  TestRelation,
  transactionBytes,
  truncateFrame,
  UNCHANGED,
  welcomeFrame,
} from '../support/frames.ts'

const chain = '07'.repeat(32)

/** Events as a client makes them of a transaction's frames. */
function eventsOf(
  relations: readonly TestRelation[],
  frames: readonly Buffer[],
  options: { xid?: number; time?: bigint } = {},
): ChangeEvent[] {
  const client = new ClientSession(
    { client: 't', start: { kind: 'now' }, consumer: null, tables: [], operations: [], progress: true, maxFrameBytes: 1 << 24 },
  )
  client.open()
  const events: ChangeEvent[] = []
  const transaction = new TestHistory().transaction(0x16b374d848n, frames, { xid: 733, ...options, schemas: relations })
  client.push(Buffer.concat([welcomeFrame(GENESIS), transactionBytes(transaction), progressFrame(transaction.position)]), events)
  return events
}

const plain = { color: false, columns: () => Infinity, utc: true }
function human(
  events: readonly ChangeEvent[],
  options: { columns?: number; color?: boolean; transactions?: boolean; today?: string } = {},
): string[] {
  const formatter = new ChangeFormatter(
    { ...plain, color: options.color ?? false, columns: () => options.columns ?? Infinity },
    options.today ?? '2025-11-22',
  )
  return events.map((event) => formatter.lines(event, options.transactions ?? false)).filter((text) => text !== '')
}

const orders = new TestRelation('orders', [
  { name: 'id', type: 'int8', key: true },
  { name: 'customer', type: 'text' },
  { name: 'total', type: 'numeric' },
  { name: 'paid', type: 'bool' },
])
const full = new TestRelation(
  'people',
  [{ name: 'id', type: 'int4' }, { name: 'name', type: 'text' }, { name: 'photo', type: 'bytea' }],
  { identity: 'full' },
)

const sample = eventsOf(
  [orders, full],
  [
    orders.change('insert', null, { id: 42n, customer: 'Ann Lee', total: '12.50', paid: false }),
    orders.change('update', null, { id: 42n, customer: UNCHANGED, total: null, paid: true }),
    orders.change('update', { id: 42n }, { id: 43n, customer: 'NULL', total: '', paid: true }),
    orders.change('delete', { id: 43n }, null),
    full.change('update', { id: 1, name: 'Bo', photo: Buffer.from([1]) }, { id: 1, name: 'Böe\x1b[2J', photo: Buffer.from([1]) }),
    truncateFrame(['orders', 'people'], { cascade: true }),
    messageFrame('app', 'hello\nworld'),
  ],
)

describe('lines for people', () => {
  it('say what happened, one line a change', () => {
    assert.deepEqual(human(sample), [
      "09:40:00.123 + public.orders id=42 customer='Ann Lee' total=12.50 paid=false\n",
      '09:40:00.123 ~ public.orders id=42 customer=(unchanged) total=NULL paid=true\n',
      "09:40:00.123 ~ public.orders id=42 → 43 customer='NULL' total='' paid=true\n",
      '09:40:00.123 - public.orders id=43\n',
      "09:40:00.123 ~ public.people name=Bo → Böe\\e[2J id=1 photo=\\x01\n",
      '09:40:00.123 × public.orders, public.people truncated cascade\n',
      '09:40:00.123 » app hello\\nworld\n',
    ])
  })

  it('fit the terminal', () => {
    for (const line of human(sample, { columns: 40 })) assert.ok(line.length <= 41, line)
    assert.equal(human(sample, { columns: 40 })[0], '09:40:00.123 + public.orders id=42 cust…\n')
    const long = eventsOf([orders], [orders.change('insert', null, { id: 1n, customer: 'x'.repeat(500), total: '1', paid: true })])
    assert.match(human(long, { columns: 130 })[0], /customer=x{59}… total=1 paid=true/)
  })

  it('are coloured', () => {
    assert.equal(
      human(sample, { color: true })[3],
      '\x1b[2m09:40:00.123 \x1b[0m\x1b[31m- \x1b[0m\x1b[36mpublic.orders\x1b[0m\x1b[2m id=\x1b[0m\x1b[1m43\x1b[0m\n',
    )
  })

  it('show transactions when asked, and the day when it is another one', () => {
    const lines = human(sample, { transactions: true, today: '2025-11-23' })
    assert.equal(lines[0], '── 2025-11-22 ──\n09:40:00.123 ┌ begin xid 733 at 16/B374D848\n')
    assert.equal(lines.at(-1), '09:40:00.123 └ commit xid 733 at 16/B374D848, 7 changes\n')
  })

  it('tell how a table has changed', () => {
    const wider = new TestRelation('orders', [
      { name: 'id', type: 'int4', key: true },
      { name: 'customer', type: 'text' },
      { name: 'paid', type: 'bool' },
      { name: 'note', type: 'text' },
    ])
    const changed = eventsOf([orders, wider], [orders.change('delete', { id: 1n }, null), wider.change('delete', { id: 1 }, null)])
    assert.equal(human(changed)[1], '09:40:00.123   public.orders is now: +note text, -total, id int8 → int4\n')
  })

  it('bear a transaction without a time', () => {
    const lone = eventsOf([], [messageFrame('p', 'c', 7n, false)], { xid: 0, time: 0n })
    assert.deepEqual(
      human(lone, { transactions: true }),
      ['             ┌ begin at 16/B374D848\n', '             » p c\n', '             └ commit at 16/B374D848, 1 change\n'],
    )
  })
})

describe('lines of JSON', () => {
  const lines = sample.map(jsonLine)
  const place = '"lsn":"16/B374D848","xid":733,"time":"2025-11-22T09:40:00.123456Z"'
  const at = (index: number) => `"position":"0/0:${chain}+${index}@16/B374D848@1763804400123456"`

  it('are valid, whatever they hold', () => {
    for (const line of lines) assert.doesNotThrow(() => JSON.parse(line), line)
    assert.ok(lines.every((line) => !line.includes('\n')))
  })

  it('keep every value', () => {
    assert.equal(
      lines[2],
      `{"op":"insert","schema":"public","table":"orders","index":1,${place},"key":{"id":42},"before":null,"after":{"id":42,"customer":"Ann Lee","total":"12.50","paid":false},${at(1)}}`,
    )
    assert.equal(
      lines[3],
      `{"op":"update","schema":"public","table":"orders","index":2,${place},"key":{"id":42},"before":null,"after":{"id":42,"total":null,"paid":true},"unchanged":["customer"],${at(2)}}`,
    )
    assert.equal(
      lines[5],
      `{"op":"delete","schema":"public","table":"orders","index":4,${place},"key":{"id":43},"before":{"id":43},"after":null,${at(4)}}`,
    )
    assert.equal(
      lines.at(-3),
      `{"op":"message","prefix":"app","content":"\\\\x68656c6c6f0a776f726c64","text":"hello\\nworld","transactional":true,"index":7,${place},${at(7)}}`,
    )
    const few = new TestRelation('n', [
      { name: 'big', type: 'int8' },
      { name: 'f4', type: 'float4' },
      { name: 'f8', type: 'float8' },
    ])
    const outOf = (big: bigint, f4: number, f8: number): string =>
      /"after":(\{.*?\})/.exec(eventsOf([few], [few.change('insert', null, { big, f4: Math.fround(f4), f8 })]).map(jsonLine)[2])![1]
    assert.equal(outOf(9007199254740993n, 1.1, -0), '{"big":9007199254740993,"f4":1.1,"f8":-0}')
    assert.equal(outOf(-(2n ** 63n), Number.NaN, -Infinity), '{"big":-9223372036854775808,"f4":"NaN","f8":"-Infinity"}')
  })

  it('print single precision as Postgres does', () => {
    for (const [value, text] of [
      [0.1, '0.1'],
      [16777216, '16777216'],
      [3.4028235e38, '3.4028235e+38'],
      [-0, '-0'],
    ] as const)
      assert.equal(shortestFloat4(Math.fround(value)), text)
  })
})

describe('the status', () => {
  const position = { lsn: toLsn(0x16b374d848n), chain: Buffer.alloc(32, 7) }
  const nowMs = 1_763_804_400_000
  const micros = (msAgo: number): bigint => BigInt(nowMs - msAgo) * 1000n
  const status: Status = {
    server: 'beyond-pg-cdc/0.1.0',
    startedAt: micros(2 * 3_600_000 + 300_000),
    state: 'streaming',
    error: null,
    history: Buffer.from('00112233445566778899aabbccddeeff', 'hex'),
    systemId: '7412345678901234567',
    database: 'app',
    slot: {
      name: 'beyond_cdc',
      publication: 'beyond',
      confirmedLsn: position.lsn,
      receivedLsn: position.lsn,
      walLsn: toLsn(position.lsn + 2048n),
      lagBytes: 2048n,
    },
    log: {
      oldest: GENESIS,
      head: position,
      headTime: micros(1500),
      bytes: 12_345_678n,
      segments: 2,
      transactions: 1234n,
      changes: 2n ** 60n,
    },
    subscribers: [
      {
        id: 3n,
        peer: 'client',
        address: '127.0.0.1:40000',
        client: 'beyond-pg-tail/0.1.0',
        consumer: null,
        connected: true,
        sent: position,
        acknowledged: null,
        lagBytes: 0n,
        lagMs: 0n,
        sentBytes: 100n,
      },
      {
        id: 0n,
        peer: '',
        address: '',
        client: '',
        consumer: 'a-consumer-with-a-very-long-name',
        connected: false,
        sent: null,
        acknowledged: position,
        lagBytes: 5_000_000_000n,
        lagMs: 90_000_000n,
        sentBytes: 0n,
      },
    ],
  }

  it('fits 100 columns', () => {
    const text = statusText(status, nowMs, false)
    assert.ok(text.split('\n').every((line) => line.length <= 100))
    assert.equal(
      text,
      [
        'service   beyond-pg-cdc/0.1.0  streaming  up 2 h 5 min',
        'database  app  system 7412345678901234567',
        'history   00112233-4455-6677-8899-aabbccddeeff',
        'slot      beyond_cdc  publication beyond',
        '          confirmed 16/B374D848  read 16/B374D848  end of WAL 16/B374E048  behind 2.0 KiB',
        'log       11.8 MiB in 2 files  1234 transactions, 1152921504606846976 changes since start',
        '          from 0/0 to 16/B374D848, committed 1.5 s ago',
        '',
        'ID  CONSUMER      CLIENT                ADDRESS          ACKNOWLEDGED      LAG     TIME',
        ' 3  -             beyond-pg-tail/0.1.0  127.0.0.1:40000  16/B374D848       0 B     0 ms',
        ' -  a-consumer-…  away                  -                16/B374D848   4.7 GiB  1 d 1 h',
        '',
      ].join('\n'),
    )
  })

  it('says why it is not streaming, and that nobody listens', () => {
    const text = statusText({ ...status, state: 'reconnecting', error: 'SLOT_ACTIVE: another one', subscribers: [] }, nowMs, false)
    assert.match(text, /reconnecting/)
    assert.match(text, /SLOT_ACTIVE: another one/)
    assert.match(text, /no subscribers/)
  })

  it('is JSON without loss', () => {
    const json = jsonStatus(status)
    assert.match(json, /"changes":1152921504606846976[,}]/)
    const parsed = JSON.parse(json) as { log: { head: string }; history: string; subscribers: { acknowledged: string | null }[] }
    assert.equal(parsed.log.head, `16/B374D848:${chain}`)
    assert.equal(parsed.history, '00112233-4455-6677-8899-aabbccddeeff')
    assert.deepEqual(parsed.subscribers.map(({ acknowledged }) => acknowledged), [null, `16/B374D848:${chain}`])
  })

  it('shows amounts in units', () => {
    assert.deepEqual(
      [0n, 1023n, 1024n, 1024n ** 2n * 150n, 1024n ** 4n].map(shownBytes),
      ['0 B', '1023 B', '1.0 KiB', '150 MiB', '1.0 TiB'],
    )
    assert.deepEqual(
      [-5, 999, 1000, 59_949, 60_000, 3_600_000, 90_000_000].map(shownDuration),
      ['0 ms', '999 ms', '1.0 s', '59.9 s', '1 min', '1 h 0 min', '1 d 1 h'],
    )
  })
})

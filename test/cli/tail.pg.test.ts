/** `beyond-pg-cdc tail` and `status` against a real service beside a real Postgres. */
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { connect, subscribe } from '../../src/transport/client.ts'
import { cdcProgram, startCdc, type TestCdc } from '../support/cdc.ts'
import { startPostgres, until, type TestPostgres } from '../support/postgres.ts'

type Line = { op: string; table?: string; index?: number; position: string; after?: { n: number } }

class Tail {
  readonly child: ChildProcess
  stdout = ''
  stderr = ''
  readonly ended: Promise<number | null>

  constructor(args: readonly string[], env: Record<string, string> = {}) {
    this.child = spawn(
      process.execPath,
      [cdcProgram, ...args],
      { stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: process.env['PATH'] ?? '', ...env } },
    )
    this.child.stdout!.setEncoding('utf8').on('data', (text: string) => (this.stdout += text))
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => (this.stderr += text))
    this.ended = new Promise((resolve) => this.child.once('close', (code) => resolve(code)))
  }

  get lines(): Line[] {
    return this.stdout
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as Line)
  }

  get numbers(): (number | undefined)[] {
    return this.lines.map((line) => line.after?.n)
  }

  has(count: number): Promise<void> {
    return until(`${count} lines are there: ${this.stderr}`, () => this.lines.length >= count)
  }

  async endsWith(code: number): Promise<void> {
    assert.equal(await this.ended, code, `${this.stdout}${this.stderr}`)
  }

  streams(): Promise<void> {
    return until(`it streams: ${this.stderr}`, () => this.stderr.includes('streaming'))
  }
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, i) => from + i)

describe('beyond-pg-cdc tail', () => {
  let postgres: TestPostgres
  let cdc: TestCdc
  let server: string[]
  const tails: Tail[] = []
  const tail = (...args: string[]): Tail => {
    const one = new Tail(['tail', ...server, ...args])
    tails.push(one)
    return one
  }
  const insert = (from: number, to: number): Promise<unknown> => postgres.query(
    `INSERT INTO numbers SELECT generate_series(${from}, ${to})`,
  )

  before(async () => {
    postgres = await startPostgres()
    await postgres.query('CREATE TABLE numbers (n int8 PRIMARY KEY); CREATE TABLE other (n int8 PRIMARY KEY)')
    cdc = await startCdc(postgres, ['--heartbeat', '200'])
    const { tls } = cdc.connect
    server = ['--server', cdc.connect.server, '--ca', tls.caFile, '--cert', tls.certFile, '--key', tls.keyFile]
    await insert(1, 10)
  })
  after(async () => {
    for (const { child } of tails) child.kill('SIGKILL')
    await cdc?.[Symbol.asyncDispose]()
    await postgres?.[Symbol.asyncDispose]()
  })

  it('prints from the beginning until now, and ends with 0', async () => {
    const one = tail('--json', '--from', 'beginning', '--until-now')
    const nothing = tail('--json', '--until-now')
    await one.endsWith(0)
    assert.deepEqual(one.numbers, range(1, 10))
    await nothing.endsWith(0)
    assert.equal(nothing.stdout, '')
  })

  it('ends after so many changes, in the midst of a transaction, and goes on from there', async () => {
    const one = tail('--json', '--from', 'beginning', '--limit', '4')
    await one.endsWith(0)
    assert.deepEqual(one.numbers, range(1, 4))
    const rest = tail('--json', '--from', one.lines[3].position, '--until-now')
    await rest.endsWith(0)
    assert.deepEqual(rest.numbers, range(5, 10))
  })

  it('filters by table and operation', async () => {
    const one = tail('--json', '--from', 'now', '--table', 'other', '--operation', 'insert', '--limit', '1')
    await one.streams()
    await postgres.query(
      'INSERT INTO numbers VALUES (-1); DELETE FROM numbers WHERE n = -1; INSERT INTO other VALUES (7); DELETE FROM other',
    )
    await one.endsWith(0)
    assert.deepEqual(one.lines.map(({ op, table, index }) => [op, table, index]), [['insert', 'other', 3]])
  })

  it('begins at a time', async () => {
    const [[time]] = await postgres.query("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
    await insert(11, 12)
    const one = tail('--json', '--from', time, '--limit', '2')
    await one.endsWith(0)
    assert.deepEqual(one.numbers, [11, 12])
  })

  it('loses and repeats no line when the service is restarted, and says what happens on standard error', async () => {
    const one = tail('--json', '--from', 'now')
    await one.streams()
    await insert(101, 110)
    await one.has(10)
    await cdc.stop()
    await insert(111, 120)
    await cdc.start()
    await one.has(20)
    await cdc.stop('SIGKILL')
    await insert(121, 130)
    await cdc.start()
    await one.has(30)
    assert.deepEqual(one.numbers, range(101, 130))
    assert.match(one.stderr, /"status":"waiting"/)
    assert.match(one.stderr, /"resumed":true/)
    one.child.kill('SIGTERM')
    await one.endsWith(0)
    assert.match(one.stderr, /"status":"ended","position":"/)
  })

  it('goes on at its position file, also after kill -9', async () => {
    const file = join(postgres.directory, 'position')
    const first = tail('--json', '--from', 'now', '--position-file', file)
    await first.streams()
    await insert(201, 210)
    await first.has(10)
    await until('the position is saved', () => existsSync(file))
    first.child.kill('SIGKILL')
    await first.ended
    await insert(211, 220)
    const second = tail('--json', '--from', 'now', '--position-file', file)
    await until('the last number is there', () => second.numbers.at(-1) === 220)
    second.child.kill('SIGINT')
    await second.endsWith(0)
    // What was printed and not saved may come again, nothing may lack.
    const both = [...first.numbers, ...second.numbers]
    assert.deepEqual([...new Set(both)].toSorted((a, b) => a! - b!), range(201, 220))
    const third = tail('--json', '--position-file', file, '--until-now')
    await third.endsWith(0)
    assert.equal(third.stdout, '')
    assert.ok(readFileSync(file, 'utf8').split('\n').length > 1)
  })

  it('follows a durable consumer', async () => {
    const first = tail('--json', '--consumer', 'ledger')
    await first.streams()
    await insert(301, 305)
    await first.has(5)
    first.child.kill('SIGINT')
    await first.endsWith(0)
    await insert(306, 310)
    const second = tail('--json', '--consumer', 'ledger', '--limit', '5')
    await second.endsWith(0)
    assert.deepEqual(second.numbers, range(306, 310))
  })

  it('ends in peace when nobody reads any more', async () => {
    const one = tail('--json', '--from', 'beginning')
    await one.has(1)
    one.child.stdout!.destroy()
    await insert(401, 410)
    await one.endsWith(0)
  })

  it('prints lines for people, with colours when asked', async () => {
    const one = tail('--from', 'beginning', '--limit', '1', '--color', 'always')
    const grey = tail('--from', 'beginning', '--limit', '1')
    await one.endsWith(0)
    // oxlint-disable-next-line no-control-regex
    assert.match(one.stdout, /^\x1b\[2m\d\d:\d\d:\d\d\.\d{3} \x1b\[0m\x1b\[32m\+ \x1b\[0m\x1b\[36mpublic\.numbers\x1b\[0m.*\n$/)
    await grey.endsWith(0)
    assert.match(grey.stdout, /^\d\d:\d\d:\d\d\.\d{3} \+ public\.numbers n=1\n$/)
  })

  it('ends with 4 when its position belongs to another history', async () => {
    const one = tail('--json', '--from', `0/1:${'00'.repeat(32)}`)
    await one.endsWith(4)
    assert.match(one.stderr, /"code":"HISTORY_BROKEN"|"code":"POSITION_TOO_OLD"/)
  })

  it('ends with 5 when its certificate is not accepted', async () => {
    const { createAuthority } = await import('../support/certificates.ts')
    const stranger = await (await createAuthority('stranger')).issue({ name: 'stranger', use: 'client' })
    writeFileSync(join(postgres.directory, 'stranger.crt'), stranger.cert)
    writeFileSync(join(postgres.directory, 'stranger.key'), stranger.key)
    const one = tail('--json', '--cert', join(postgres.directory, 'stranger.crt'), '--key', join(postgres.directory, 'stranger.key'))
    await one.endsWith(5)
    assert.match(one.stderr, /"code":"UNAUTHENTICATED"/)
  })

  it('has a sister that shows the status', async () => {
    const follower = tail('--json', '--consumer', 'watched')
    await follower.streams()
    const text = new Tail(['status', ...server])
    const json = new Tail(['status', ...server, '--json'])
    await text.endsWith(0)
    assert.match(text.stdout, /streaming/)
    assert.match(text.stdout, /watched/)
    await json.endsWith(0)
    const status = JSON.parse(json.stdout) as { subscribers: { consumer: string | null; connected: boolean }[] }
    assert.ok(status.subscribers.some(({ consumer, connected }) => consumer === 'watched' && connected))
  })

  it('is the library: the same subscription in a few lines', async () => {
    await using client = connect(cdc.connect)
    assert.equal((await client.status()).database, 'postgres')
    const seen: unknown[] = []
    for await (const event of subscribe({ ...cdc.connect, from: 'beginning' })) {
      if (event.kind === 'insert') seen.push(event.after['n'])
      if (seen.length === 10) break
    }
    assert.deepEqual(seen, range(1, 10).map(BigInt))
  })
})

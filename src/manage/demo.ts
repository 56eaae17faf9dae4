/**
 * A small shop that is always open: something to watch. Writes through PgBouncer, several transactions a second,
 * inserts, updates, deletes, several rows per transaction, jsonb, numeric, arrays, timestamps and now and then a long text.
 */
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Pool, type PoolClient } from 'pg'
import { BeyondError } from '../errors.ts'
import { readBoxFile } from './box-file.ts'
import { sqlStateOf } from './database-client.ts'
import { passwordFile } from './secrets.ts'
import { boxSettings } from './settings.ts'

export type DemoConfig = { readonly dataDir: string; readonly rate: number; readonly seconds: number }
export type DemoSurroundings = { readonly signal: AbortSignal; readonly say: (line: string) => void }

export function parseDemoConfig(
  flags: Readonly<Record<string, string | undefined>>,
  environment: Readonly<Record<string, string | undefined>>,
  workingDirectory: string,
): DemoConfig {
  const number = (flag: string, highest: number, otherwise: number): number => {
    const text = flags[flag]
    if (text === undefined) return otherwise
    const value = Number(text)
    if (text.trim() !== '' && value > 0 && value <= highest) return value
    throw new BeyondError('BAD_ARGUMENT', `--${flag} must be a number above 0 and at most ${highest}, not ${JSON.stringify(text)}.`)
  }
  return {
    dataDir: resolve(workingDirectory, flags['data'] ?? environment[boxSettings.data.env] ?? '.beyond'),
    rate: number('rate', 5_000, 8),
    seconds: number('seconds', 86_400 * 365, Number.POSITIVE_INFINITY),
  }
}

const SCHEMA = `
  CREATE SCHEMA IF NOT EXISTS shop;
  DO $$ BEGIN
    CREATE TYPE shop.order_status AS ENUM ('new', 'paid', 'shipped', 'cancelled');
  EXCEPTION WHEN duplicate_object THEN NULL; END $$;
  CREATE TABLE IF NOT EXISTS shop.customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, email text NOT NULL,
    address jsonb NOT NULL, newsletter boolean NOT NULL DEFAULT false, joined_at timestamptz NOT NULL DEFAULT now());
  CREATE TABLE IF NOT EXISTS shop.products (
    sku text PRIMARY KEY, title text NOT NULL, price numeric(10,2) NOT NULL, stock integer NOT NULL,
    tags text[] NOT NULL DEFAULT '{}', description text, manual text, updated_at timestamptz NOT NULL DEFAULT now());
  CREATE TABLE IF NOT EXISTS shop.orders (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), customer_id bigint NOT NULL REFERENCES shop.customers,
    status shop.order_status NOT NULL DEFAULT 'new', total numeric(12,2) NOT NULL, placed_at timestamptz NOT NULL DEFAULT now());
  CREATE TABLE IF NOT EXISTS shop.order_items (
    order_id uuid NOT NULL REFERENCES shop.orders ON DELETE CASCADE, line smallint NOT NULL,
    sku text NOT NULL REFERENCES shop.products, quantity integer NOT NULL, price numeric(10,2) NOT NULL, PRIMARY KEY (order_id, line));
  CREATE TABLE IF NOT EXISTS shop.payments (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id uuid NOT NULL REFERENCES shop.orders ON DELETE CASCADE,
    method text NOT NULL, amount numeric(12,2) NOT NULL, details jsonb, paid_at timestamptz NOT NULL DEFAULT now());
  CREATE TABLE IF NOT EXISTS shop.carts (
    customer_id bigint NOT NULL REFERENCES shop.customers, sku text NOT NULL REFERENCES shop.products,
    quantity integer NOT NULL, PRIMARY KEY (customer_id, sku));
  CREATE INDEX IF NOT EXISTS orders_open ON shop.orders (placed_at) WHERE status IN ('new', 'paid');
`

const FIRST = ['Ada', 'Grace', 'Edsger', 'Barbara', 'Alan', 'Radia', 'Ken', 'Frances', 'Donald', 'Katherine']
const LAST = ['Lovelace', 'Hopper', 'Dijkstra', 'Liskov', 'Turing', 'Perlman', 'Thompson', 'Allen', 'Knuth', 'Johnson']
const CITIES = ['Lisbon', 'Oslo', 'Kraków', 'Zürich', 'Gdańsk', 'Athens', 'Malmö', 'Tallinn', '東京', 'Reykjavík']
const THINGS = ['teapot', 'lantern', 'notebook', 'bicycle bell', 'wool blanket', 'chess set', 'compass', 'kite', 'music box', 'hammock']
const COLOURS = ['red', 'blue', 'green', 'amber', 'slate']
const METHODS = ['card', 'transfer', 'invoice', 'gift card']

/** Older ones are removed, so that the shop does not grow without end. */
const KEEP_ORDERS = 5_000
const CONNECTIONS = 4

type Action = { readonly name: string; readonly weight: number; readonly run: (client: PoolClient) => Promise<string | undefined> }

const ACTIONS: readonly Action[] = [
  { name: 'join', weight: 8, run: joinCustomer },
  { name: 'cart', weight: 20, run: fillCart },
  { name: 'order', weight: 30, run: placeOrder },
  { name: 'pay', weight: 22, run: payOrder },
  { name: 'ship', weight: 18, run: shipOrder },
  { name: 'cancel', weight: 4, run: cancelOrder },
  { name: 'restock', weight: 6, run: restock },
  { name: 'reprice', weight: 4, run: reprice },
  { name: 'move', weight: 3, run: moveCustomer },
  { name: 'manual', weight: 1, run: writeManual },
  { name: 'tidy', weight: 2, run: tidy },
]

/** Writes until the time is over or the signal aborts. A restart of the box in between is waited for. */
export async function runDemo(config: DemoConfig, { signal, say }: DemoSurroundings): Promise<void> {
  const box = readBoxFile(config.dataDir)
  const pool = new Pool({
    ...box.pooler,
    user: 'postgres',
    password: readFileSync(passwordFile(box.secrets, 'postgres'), 'utf8').trim(),
    database: box.database,
    ssl: { ca: readFileSync(box.tls.ca, 'utf8') },
    max: CONNECTIONS,
    connectionTimeoutMillis: 5_000,
    application_name: 'beyond-pg demo',
  })
  pool.on('error', () => undefined) // an idle connection that the box closed; the next one is a new one
  try {
    await prepareShop(pool)
    say(`The shop is open in schema shop of database ${box.database}: about ${config.rate} transactions a second. Ctrl-C closes it.`)
    await trade(pool, config, signal, say)
  } catch (error) {
    throw asUnreachable(error)
  } finally {
    await pool.end()
  }
}

async function trade(pool: Pool, config: DemoConfig, signal: AbortSignal, say: (line: string) => void): Promise<void> {
  const started = performance.now()
  const endAt = started + config.seconds * 1000
  const counts = new Map<string, number>()
  const failures = { inARow: 0, last: '' }
  let total = 0
  let latest = ''
  const worker = async (number: number): Promise<void> => {
    let due = performance.now() + (number * 1000) / config.rate
    while (!signal.aborted && performance.now() < endAt) {
      const action = pick(ACTIONS)
      try {
        const said = await transaction(pool, action.run)
        failures.inARow = 0
        if (said !== undefined) {
          total++
          latest = said
          counts.set(action.name, (counts.get(action.name) ?? 0) + 1)
        }
      } catch (error) {
        failures.inARow++
        failures.last = (error as Error).message
        await rest(500, signal)
      }
      // A shop has busy and quiet moments; the mean is the rate that was asked for.
      due += ((CONNECTIONS * 1000) / config.rate) * (0.25 + 1.5 * Math.random())
      due = Math.max(due, performance.now() - 1000)
      await rest(Math.min(due, endAt) - performance.now(), signal)
    }
  }
  const report = setInterval(() => {
    const seconds = Math.round((performance.now() - started) / 1000)
    const summary = [...counts].map(([name, count]) => `${count} ${name}`).join(', ')
    say(failures.inARow > 0 ? `  ${seconds}s  waiting for the box: ${failures.last}` : `  ${seconds}s  ${total} transactions  (${summary})  ${latest}`)
    counts.clear()
  }, 1000)
  try {
    await Promise.all(Array.from({ length: CONNECTIONS }, (_, number) => worker(number)))
  } finally {
    clearInterval(report)
  }
  say(`The shop is closed after ${total} transactions.`)
}

async function transaction(pool: Pool, run: Action['run']): Promise<string | undefined> {
  const client = await pool.connect()
  try {
    await client.query('BEGIN')
    const said = await run(client)
    await client.query('COMMIT')
    client.release()
    return said
  } catch (error) {
    client.release(true) // its state is unknown; a new one takes its place
    throw error
  }
}

async function prepareShop(pool: Pool): Promise<void> {
  await transaction(pool, async (client) => {
    await client.query(SCHEMA)
    for (const thing of THINGS) {
      for (const colour of COLOURS) {
        const values = [skuOf(thing, colour), `${colour} ${thing}`, price(3, 150), between(20, 200), [colour, thing.split(' ').at(-1)]]
        await client.query(
          'INSERT INTO shop.products (sku, title, price, stock, tags, description) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING',
          [...values, `A ${thing} in ${colour}, made in ${pickFrom(CITIES)}.`],
        )
      }
    }
  })
}

async function joinCustomer(client: PoolClient): Promise<string> {
  const name = `${pickFrom(FIRST)} ${pickFrom(LAST)}`
  const address = { city: pickFrom(CITIES), street: `${pickFrom(LAST)} Street ${between(1, 99)}`, floor: Math.random() < 0.3 ? null : between(0, 9) }
  const email = `${name.toLowerCase().replace(' ', '.')}${between(1, 9999)}@example.com`
  await client.query('INSERT INTO shop.customers (name, email, address, newsletter) VALUES ($1, $2, $3, $4)', [name, email, address, Math.random() < 0.4])
  return `${name} of ${address.city} joined`
}

async function fillCart(client: PoolClient): Promise<string | undefined> {
  const customer = await someCustomer(client)
  if (!customer) return joinCustomer(client)
  const sku = someSku()
  await client.query(
    `INSERT INTO shop.carts VALUES ($1, $2, $3) ON CONFLICT (customer_id, sku) DO UPDATE SET quantity = shop.carts.quantity + excluded.quantity`,
    [customer.id, sku, between(1, 3)],
  )
  return `${customer.name} put a ${sku} into the cart`
}

async function placeOrder(client: PoolClient): Promise<string | undefined> {
  const customer = await someCustomer(client)
  if (!customer) return joinCustomer(client)
  const wanted = [...new Set(Array.from({ length: between(1, 5) }, someSku))].toSorted() // one order of locks for all
  const order = await client.query<{ id: string }>('INSERT INTO shop.orders (customer_id, total) VALUES ($1, 0) RETURNING id', [customer.id])
  const { id } = order.rows[0]
  let line = 0
  for (const sku of wanted) {
    const quantity = between(1, 3)
    const sold = await client.query<{ price: string }>(
      'UPDATE shop.products SET stock = stock - $2, updated_at = now() WHERE sku = $1 AND stock >= $2 RETURNING price',
      [sku, quantity],
    )
    if (sold.rows[0]) await client.query('INSERT INTO shop.order_items VALUES ($1, $2, $3, $4, $5)', [id, ++line, sku, quantity, sold.rows[0].price])
  }
  if (line === 0) {
    await client.query('DELETE FROM shop.orders WHERE id = $1', [id])
    return restock(client)
  }
  const total = await client.query<{ total: string }>(
    'UPDATE shop.orders SET total = (SELECT sum(quantity * price) FROM shop.order_items WHERE order_id = $1) WHERE id = $1 RETURNING total',
    [id],
  )
  await client.query('DELETE FROM shop.carts WHERE customer_id = $1', [customer.id])
  return `${customer.name} ordered ${line} ${line === 1 ? 'thing' : 'things'} for ${total.rows[0].total}`
}

async function payOrder(client: PoolClient): Promise<string | undefined> {
  const order = await nextOrder(client, 'new')
  if (!order) return undefined
  const method = pickFrom(METHODS)
  const details = method === 'card' ? { last4: String(between(0, 9999)).padStart(4, '0'), threeDS: Math.random() < 0.8 } : null
  await client.query('INSERT INTO shop.payments (order_id, method, amount, details) VALUES ($1, $2, $3, $4)', [order.id, method, order.total, details])
  await client.query(`UPDATE shop.orders SET status = 'paid' WHERE id = $1`, [order.id])
  return `${order.total} paid by ${method}`
}

async function shipOrder(client: PoolClient): Promise<string | undefined> {
  const order = await nextOrder(client, 'paid')
  if (!order) return undefined
  await client.query(`UPDATE shop.orders SET status = 'shipped' WHERE id = $1`, [order.id])
  return `order ${order.id.slice(0, 8)} shipped`
}

async function cancelOrder(client: PoolClient): Promise<string | undefined> {
  const order = await nextOrder(client, 'new')
  if (!order) return undefined
  await client.query(
    `UPDATE shop.products p SET stock = stock + quantity, updated_at = now() FROM shop.order_items i WHERE i.order_id = $1 AND i.sku = p.sku`,
    [order.id],
  )
  await client.query(`UPDATE shop.orders SET status = 'cancelled' WHERE id = $1`, [order.id])
  return `order ${order.id.slice(0, 8)} cancelled`
}

async function restock(client: PoolClient): Promise<string | undefined> {
  const filled = await client.query(
    `UPDATE shop.products SET stock = stock + 100, updated_at = now()
     WHERE sku IN (SELECT sku FROM shop.products WHERE stock < 40 ORDER BY sku LIMIT 5 FOR UPDATE SKIP LOCKED)`,
  )
  return filled.rowCount ? `${filled.rowCount} products restocked` : undefined
}

async function reprice(client: PoolClient): Promise<string> {
  const sku = someSku()
  await client.query('UPDATE shop.products SET price = $2, updated_at = now() WHERE sku = $1', [sku, price(3, 150)])
  return `${sku} has a new price`
}

async function moveCustomer(client: PoolClient): Promise<string | undefined> {
  const customer = await someCustomer(client)
  if (!customer) return undefined
  const city = pickFrom(CITIES)
  await client.query(`UPDATE shop.customers SET address = address || jsonb_build_object('city', $2::text) WHERE id = $1`, [customer.id, city])
  return `${customer.name} moved to ${city}`
}

/** Long enough to be stored out of line; later updates of the row leave it unchanged. */
async function writeManual(client: PoolClient): Promise<string> {
  const sku = someSku()
  const words = [...THINGS, ...CITIES, ...LAST, ...COLOURS]
  const text = Array.from({ length: 500 }, () => `${pickFrom(words)} ${between(0, 999)}`).join(', ')
  await client.query('UPDATE shop.products SET manual = $2, updated_at = now() WHERE sku = $1', [sku, text])
  return `${sku} has a manual now`
}

async function tidy(client: PoolClient): Promise<string | undefined> {
  const old = await client.query(
    `DELETE FROM shop.orders WHERE id IN (
       SELECT id FROM shop.orders WHERE status IN ('shipped', 'cancelled')
       ORDER BY placed_at DESC OFFSET ${KEEP_ORDERS} LIMIT 200 FOR UPDATE SKIP LOCKED)`,
  )
  const carts = await client.query(
    'DELETE FROM shop.carts WHERE ctid IN (SELECT ctid FROM shop.carts ORDER BY random() LIMIT 2 FOR UPDATE SKIP LOCKED)',
  )
  const removed = (old.rowCount ?? 0) + (carts.rowCount ?? 0)
  return removed > 0 ? `${removed} old orders and carts removed` : undefined
}

async function someCustomer(client: PoolClient): Promise<{ id: string; name: string } | undefined> {
  const found = await client.query<{ id: string; name: string }>(
    `SELECT id, name FROM shop.customers WHERE id >= (SELECT (random() * max(id))::bigint FROM shop.customers) ORDER BY id LIMIT 1`,
  )
  return found.rows[0]
}

async function nextOrder(client: PoolClient, status: string): Promise<{ id: string; total: string } | undefined> {
  const found = await client.query<{ id: string; total: string }>(
    `SELECT id, total FROM shop.orders WHERE status = $1::shop.order_status AND placed_at > now() - interval '1 day'
     ORDER BY placed_at LIMIT 1 FOR UPDATE SKIP LOCKED`,
    [status],
  )
  return found.rows[0]
}

function pick(actions: readonly Action[]): Action {
  let left = Math.random() * actions.reduce((sum, { weight }) => sum + weight, 0)
  return actions.find(({ weight }) => (left -= weight) < 0) ?? actions[0]
}

const skuOf = (thing: string, colour: string): string => `${thing.replaceAll(' ', '-')}-${colour}`

/** Some things sell better than others, as in any shop. */
const someSku = (): string => {
  const popular = Math.floor(THINGS.length * Math.random() ** 2)
  return skuOf(THINGS[popular], pickFrom(COLOURS))
}

const pickFrom = <T>(list: readonly T[]): T => list[Math.floor(Math.random() * list.length)]
const between = (low: number, high: number): number => low + Math.floor(Math.random() * (high - low + 1))
const price = (low: number, high: number): string => (low + Math.random() * (high - low)).toFixed(2)
const rest = (milliseconds: number, signal: AbortSignal): Promise<void> =>
  sleep(Math.max(0, milliseconds), undefined, { signal }).catch(() => undefined)

function asUnreachable(error: unknown): unknown {
  const isOurs = error instanceof BeyondError || sqlStateOf(error) !== undefined
  if (isOurs) return error
  return new BeyondError('UNREACHABLE', `The box does not answer (${(error as Error).message}): start it with npm start in another terminal.`, {
    cause: error,
  })
}

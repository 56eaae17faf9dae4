/**
 * What a box needs inside of Postgres: roles, PgBouncer's lookup function, the database and publication of the change stream.
 * initdb has made our own superuser, beyond_admin, so that people can do with `postgres` as they like. Every step looks before it acts. Passwords reach Postgres as verifiers only.
 */
import { type Client, escapeIdentifier as id, escapeLiteral as literal } from 'pg'
import type { Logger } from 'pino'
import { BeyondError } from '../errors.ts'
import type { CdcConfig } from './box-config.ts'
import { type DatabaseAddress, sqlStateOf, withDatabase } from './database-client.ts'
import { scramVerifier, verifierMatches } from './scram.ts'
import type { Passwords } from './secrets.ts'
import type { TableName, TableSelection } from './table-selection.ts'

export const PUBLICATION = 'beyond'

const STATEMENT_MS = 60_000
const ATTRIBUTES = {
  beyond_pooler: 'LOGIN NOSUPERUSER NOREPLICATION',
  beyond_cdc: 'LOGIN NOSUPERUSER REPLICATION',
} as const

export type SetupOptions = {
  readonly address: Pick<DatabaseAddress, 'host' | 'port'>
  readonly passwords: Passwords
  readonly cdc: CdcConfig | undefined
  readonly logger: Logger
}

export async function setUpDatabase({ address, passwords, cdc, logger }: SetupOptions): Promise<void> {
  const admin = { ...address, user: 'beyond_admin', password: passwords.beyond_admin, database: 'postgres' }
  await withAdmin(admin, async (client) => {
    await ensureSuperuser(client, passwords.postgres)
    for (const role of ['beyond_pooler', 'beyond_cdc'] as const) await ensureRole(client, role, passwords[role])
    await ensureLookup(client)
    if (cdc) await ensureDatabase(client, cdc.database, logger)
  })
  if (!cdc) return
  await withAdmin({ ...admin, database: cdc.database }, (client) => ensurePublication(client, cdc.tables, logger))
}

async function withAdmin(admin: DatabaseAddress, work: (client: Client) => Promise<void>): Promise<void> {
  try {
    await withDatabase(admin, STATEMENT_MS, async (client) => {
      // With a synchronous standby that is down, waiting for it here would hang the boot that is to bring it back.
      await client.query("SET synchronous_commit = local; SET log_statement = 'none'; SET lock_timeout = '10s'; SET search_path = pg_catalog")
      await work(client)
    })
  } catch (error) {
    if (!isRefusedLogin(error)) throw error
    const message = 'Postgres refuses the password of role beyond_admin in the folder secrets: put the file back that belongs to this database.'
    throw new BeyondError('POSTGRES_REFUSED', message, { cause: error })
  }
}

/** The superuser for people. Made once; its password is theirs to change. */
async function ensureSuperuser(client: Client, password: string): Promise<void> {
  const found = await client.query("SELECT FROM pg_roles WHERE rolname = 'postgres'")
  if (found.rowCount) return
  await client.query(`CREATE ROLE postgres LOGIN SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS PASSWORD ${literal(scramVerifier(password))}`)
}

async function ensureRole(client: Client, role: keyof typeof ATTRIBUTES, password: string): Promise<void> {
  const found = await client.query<{ rolpassword: string | null; rolsuper: boolean; rolreplication: boolean; rolcanlogin: boolean }>(
    'SELECT rolpassword, rolsuper, rolreplication, rolcanlogin FROM pg_authid WHERE rolname = $1',
    [role],
  )
  const [row] = found.rows
  const isRight = row?.rolcanlogin && !row.rolsuper && row.rolreplication === (role === 'beyond_cdc') && verifierMatches(row.rolpassword, password)
  if (isRight) return
  const verb = row ? 'ALTER' : 'CREATE'
  await client.query(`${verb} ROLE ${id(role)} ${ATTRIBUTES[role]} PASSWORD ${literal(scramVerifier(password))} VALID UNTIL 'infinity'`)
}

/** Roles that are only for the inside of the box don't log in through the pool. */
const LOOKUP_BODY = `
  SELECT rolname::text, CASE WHEN rolvaliduntil <= pg_catalog.now() THEN NULL ELSE rolpassword END
  FROM pg_catalog.pg_authid
  WHERE rolname = wanted AND rolcanlogin AND rolname NOT IN ('beyond_admin', 'beyond_cdc')
`

async function ensureLookup(client: Client): Promise<void> {
  const found = await client.query(
    `SELECT FROM pg_proc WHERE oid = to_regprocedure('beyond_pooler.lookup(text)') AND prosrc = $1 AND prosecdef
     AND proowner = 'beyond_admin'::regrole AND has_function_privilege('beyond_pooler', oid, 'execute')
     AND has_schema_privilege('beyond_pooler', pronamespace, 'usage') AND has_database_privilege('beyond_pooler', 'postgres', 'connect')`,
    [LOOKUP_BODY],
  )
  if (found.rowCount) return
  await client.query(`
    BEGIN;
    CREATE SCHEMA IF NOT EXISTS beyond_pooler;
    ALTER SCHEMA beyond_pooler OWNER TO beyond_admin;
    REVOKE ALL ON SCHEMA beyond_pooler FROM PUBLIC;
    GRANT USAGE ON SCHEMA beyond_pooler TO beyond_pooler;
    DROP FUNCTION IF EXISTS beyond_pooler.lookup(text);
    CREATE FUNCTION beyond_pooler.lookup(wanted text, OUT name text, OUT secret text) RETURNS SETOF record
      LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS ${literal(LOOKUP_BODY)};
    ALTER FUNCTION beyond_pooler.lookup(text) OWNER TO beyond_admin;
    REVOKE ALL ON FUNCTION beyond_pooler.lookup(text) FROM PUBLIC;
    GRANT EXECUTE ON FUNCTION beyond_pooler.lookup(text) TO beyond_pooler;
    GRANT CONNECT ON DATABASE postgres TO beyond_pooler;
    COMMIT;`)
}

async function ensureDatabase(client: Client, database: string, logger: Logger): Promise<void> {
  const found = await client.query('SELECT FROM pg_database WHERE datname = $1', [database])
  if (!found.rowCount) {
    logger.info({ database }, 'creating the database')
    await client.query(`CREATE DATABASE ${id(database)} OWNER postgres`)
  }
  const granted = await client.query("SELECT FROM pg_database WHERE datname = $1 AND has_database_privilege('beyond_cdc', oid, 'connect')", [database])
  if (!granted.rowCount) await client.query(`GRANT CONNECT ON DATABASE ${id(database)} TO beyond_cdc`)
}

type Found = { readonly allTables: boolean; readonly tables: string[]; readonly schemas: string[] }

async function ensurePublication(client: Client, wanted: TableSelection, logger: Logger): Promise<void> {
  const found = await client.query<Found>(
    `SELECT puballtables AS "allTables",
       ARRAY(SELECT format('%I.%I', nspname, relname) FROM pg_publication_rel r JOIN pg_class c ON c.oid = prrelid
             JOIN pg_namespace n ON n.oid = relnamespace WHERE prpubid = p.oid) AS tables,
       ARRAY(SELECT nspname::text FROM pg_publication_namespace JOIN pg_namespace n ON n.oid = pnnspid WHERE pnpubid = p.oid) AS schemas
     FROM pg_publication p WHERE pubname = $1`,
    [PUBLICATION],
  )
  const [existing] = found.rows
  const there = wanted === 'all' ? 'all' : await existingOnes(client, wanted)
  if (there !== 'all' && there.missing.length > 0) {
    logger.warn({ missing: there.missing }, 'these tables do not exist yet, so their changes do not stream until the next start after they do')
  }
  if (existing && describes(existing, there)) return
  const target = publicationTarget(there)
  logger.info({ publication: PUBLICATION, tables: target }, existing ? 'changing the publication' : 'creating the publication')
  // Old and new are swapped in one transaction, so that the slot's view of the catalog never lacks it.
  await client.query(
    `BEGIN; DROP PUBLICATION IF EXISTS ${id(PUBLICATION)};
     CREATE PUBLICATION ${id(PUBLICATION)} ${target} WITH (publish = 'insert, update, delete, truncate', publish_generated_columns = stored);
     COMMIT;`,
  )
}

/** Whether the publication covers what is wanted and nothing else. */
function describes(found: Found, wanted: 'all' | Existing): boolean {
  if (wanted === 'all' || found.allTables) return wanted === 'all' && found.allTables
  const same = (a: readonly string[], b: readonly string[]): boolean => JSON.stringify(a.toSorted()) === JSON.stringify(b.toSorted())
  return same(found.schemas, wanted.schemas) && same(found.tables, wanted.tables)
}

function publicationTarget(wanted: 'all' | Existing): string {
  if (wanted === 'all') return 'FOR ALL TABLES'
  const parts: string[] = []
  if (wanted.tables.length > 0) parts.push(`TABLE ${wanted.tables.join(', ')}`)
  if (wanted.schemas.length > 0) parts.push(`TABLES IN SCHEMA ${wanted.schemas.map(id).join(', ')}`)
  return parts.length > 0 ? `FOR ${parts.join(', ')}` : ''
}

/** `tables` are quoted as SQL wants them. */
type Existing = { readonly tables: string[]; readonly schemas: string[]; readonly missing: string[] }

async function existingOnes(client: Client, wanted: Exclude<TableSelection, 'all'>): Promise<Existing> {
  const result: Existing = { tables: [], schemas: [], missing: [] }
  for (const { schema, table } of uniqueTables(wanted.tables)) {
    const found = await client.query<{ quoted: string }>(
      `SELECT format('%I.%I', nspname, relname) AS quoted FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
       WHERE nspname = $1 AND relname = $2 AND relkind IN ('r', 'p')`,
      [schema, table],
    )
    if (found.rows[0]) result.tables.push(found.rows[0].quoted)
    else result.missing.push(`${schema}.${table}`)
  }
  for (const schema of new Set(wanted.schemas)) {
    const found = await client.query('SELECT FROM pg_namespace WHERE nspname = $1', [schema])
    if (found.rowCount) result.schemas.push(schema)
    else result.missing.push(`${schema}.*`)
  }
  return result
}

function uniqueTables(tables: readonly TableName[]): readonly TableName[] {
  return [...new Map(tables.map((name) => [JSON.stringify([name.schema, name.table]), name])).values()]
}

/** 28P01: wrong password or no such role; 28000: the role may not log in. */
const isRefusedLogin = (error: unknown): boolean => ['28P01', '28000'].includes(sqlStateOf(error) ?? '')

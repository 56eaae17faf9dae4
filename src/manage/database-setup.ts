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
import type { DatabaseSetting, ExtensionSetting, RoleAttribute, RoleSetting } from './settings.ts'
import type { TableName, TableSelection } from './table-selection.ts'

export const PUBLICATION = 'beyond'

const STATEMENT_MS = 60_000
const ATTRIBUTES = {
  // Made by initdb. Where the database is another box's, a promoted replica's or a restored one's, it takes our password here.
  beyond_admin: { sql: 'LOGIN SUPERUSER REPLICATION', superuser: true, replication: true },
  beyond_pooler: { sql: 'LOGIN NOSUPERUSER NOREPLICATION', superuser: false, replication: false },
  beyond_cdc: { sql: 'LOGIN NOSUPERUSER REPLICATION', superuser: false, replication: true },
} as const

export type SetupOptions = {
  readonly address: Pick<DatabaseAddress, 'host' | 'port'>
  readonly passwords: Passwords
  readonly cdc: CdcConfig | undefined
  readonly roles?: readonly RoleSetting[]
  readonly databases?: readonly DatabaseSetting[]
  readonly logger: Logger
}

/** Returns what was missing and is there now. */
export async function setUpDatabase({ address, passwords, cdc, roles = [], databases = [], logger }: SetupOptions): Promise<readonly string[]> {
  const did: string[] = []
  const admin = { ...address, user: 'beyond_admin', password: passwords.beyond_admin, database: 'postgres' }
  await withAdmin(admin, async (client) => {
    const superuser = roles.find(({ name }) => name === 'postgres')
    did.push(...(await ensureSuperuser(client, superuser?.verifier ?? scramVerifier(passwords.postgres))))
    for (const role of ['beyond_admin', 'beyond_pooler', 'beyond_cdc'] as const) did.push(...(await ensureRole(client, role, passwords[role])))
    for (const role of roles) did.push(...(await ensureWantedRole(client, role)))
    did.push(...(await ensureLookup(client)))
    for (const database of databases) did.push(...(await ensureDatabase(client, database, logger)))
    if (cdc) {
      did.push(...(await ensureDatabase(client, { name: cdc.database, owner: 'postgres' }, logger)))
      await ensureCdcMayConnect(client, cdc.database)
    }
  })
  if (cdc) await withAdmin({ ...admin, database: cdc.database }, (client) => ensurePublication(client, cdc.tables, logger))
  return did
}

export type ExtensionOptions = {
  readonly address: Pick<DatabaseAddress, 'host' | 'port'>
  readonly passwords: Passwords
  readonly wanted: readonly ExtensionSetting[]
  /** Where one goes that names no database. */
  readonly databases: readonly string[]
  /** By the control files that lie beside Postgres. */
  readonly installed: ReadonlySet<string>
}

/** Makes those that are installed, and brings those of an older image up to date. One that fails is a problem of its own. */
export async function ensureExtensions({ address, passwords, wanted, databases, installed }: ExtensionOptions): Promise<{ did: string[]; problems: string[] }> {
  const did: string[] = []
  const problems: string[] = []
  const targets = wanted.flatMap(({ name, database }) => (database === undefined ? databases : [database]).map((target) => ({ name, target })))
  for (const { name, target } of targets) {
    if (!installed.has(name)) {
      problems.push(`Extension ${name} is not installed beside Postgres: take it out of BEYOND_PG_EXTENSIONS, or use an image that has it.`)
      continue
    }
    try {
      const admin = { ...address, user: 'beyond_admin', password: passwords.beyond_admin, database: target }
      await withAdmin(admin, async (client) => void did.push(...(await ensureExtension(client, name, target))))
    } catch (error) {
      problems.push(`Extension ${name} could not be made in database ${target}: ${(error as Error).message}.`)
    }
  }
  return { did, problems: [...new Set(problems)] }
}

async function ensureExtension(client: Client, name: string, database: string): Promise<readonly string[]> {
  const found = await client.query<{ installed: string | null; available: string }>(
    'SELECT installed_version AS installed, default_version AS available FROM pg_available_extensions WHERE name = $1',
    [name],
  )
  const [version] = found.rows
  if (version?.installed === null) {
    // Its objects go where people look for them, not into the pg_catalog of our own search path.
    await client.query(`SET search_path = public, pg_catalog; CREATE EXTENSION ${id(name)} CASCADE; SET search_path = pg_catalog`)
    return [`made extension ${name} in ${database}`]
  }
  if (version === undefined || version.installed === version.available) return []
  await client.query(`ALTER EXTENSION ${id(name)} UPDATE`)
  return [`updated extension ${name} in ${database} from ${version.installed} to ${version.available}`]
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
async function ensureSuperuser(client: Client, verifier: string): Promise<readonly string[]> {
  const found = await client.query("SELECT FROM pg_roles WHERE rolname = 'postgres'")
  if (found.rowCount) return []
  await client.query(`CREATE ROLE postgres LOGIN SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS PASSWORD ${literal(verifier)}`)
  return ['made role postgres']
}

const SQL_ATTRIBUTES: Readonly<Record<RoleAttribute, string>> = {
  replication: 'REPLICATION',
  createdb: 'CREATEDB',
  createrole: 'CREATEROLE',
  bypassrls: 'BYPASSRLS',
  superuser: 'SUPERUSER',
}

/** A role of the settings: its verifier is set at every start, its attributes are added and never taken away. */
async function ensureWantedRole(client: Client, { name, attributes, verifier }: RoleSetting): Promise<readonly string[]> {
  const found = await client.query<{ rolpassword: string | null; rolcanlogin: boolean; has: RoleAttribute[] }>(
    `SELECT rolpassword, rolcanlogin, array_remove(ARRAY[CASE WHEN rolreplication THEN 'replication' END, CASE WHEN rolcreatedb THEN 'createdb' END,
       CASE WHEN rolcreaterole THEN 'createrole' END, CASE WHEN rolbypassrls THEN 'bypassrls' END, CASE WHEN rolsuper THEN 'superuser' END], NULL) AS has
     FROM pg_authid WHERE rolname = $1`,
    [name],
  )
  const [row] = found.rows
  if (row?.rolcanlogin && row.rolpassword === verifier && attributes.every((attribute) => row.has.includes(attribute))) return []
  const wanted = attributes.map((attribute) => SQL_ATTRIBUTES[attribute]).join(' ')
  await client.query(`${row ? 'ALTER' : 'CREATE'} ROLE ${id(name)} LOGIN ${wanted} PASSWORD ${literal(verifier)}`)
  return [`${row ? 'changed' : 'made'} role ${name}`]
}

async function ensureRole(client: Client, role: keyof typeof ATTRIBUTES, password: string): Promise<readonly string[]> {
  const found = await client.query<{ rolpassword: string | null; rolsuper: boolean; rolreplication: boolean; rolcanlogin: boolean }>(
    'SELECT rolpassword, rolsuper, rolreplication, rolcanlogin FROM pg_authid WHERE rolname = $1',
    [role],
  )
  const [row] = found.rows
  const { superuser, replication } = ATTRIBUTES[role]
  const isRight = row?.rolcanlogin && row.rolsuper === superuser && row.rolreplication === replication && verifierMatches(row.rolpassword, password)
  if (isRight) return []
  const verb = row ? 'ALTER' : 'CREATE'
  await client.query(`${verb} ROLE ${id(role)} ${ATTRIBUTES[role].sql} PASSWORD ${literal(scramVerifier(password))} VALID UNTIL 'infinity'`)
  return [`${row ? 'changed' : 'made'} role ${role}`]
}

/** Roles that are only for the inside of the box don't log in through the pool. */
const LOOKUP_BODY = `
  SELECT rolname::text, CASE WHEN rolvaliduntil <= pg_catalog.now() THEN NULL ELSE rolpassword END
  FROM pg_catalog.pg_authid
  WHERE rolname = wanted AND rolcanlogin AND rolname NOT IN ('beyond_admin', 'beyond_cdc', 'beyond_sink')
`

async function ensureLookup(client: Client): Promise<readonly string[]> {
  const found = await client.query(
    `SELECT FROM pg_proc WHERE oid = to_regprocedure('beyond_pooler.lookup(text)') AND prosrc = $1 AND prosecdef
     AND proowner = 'beyond_admin'::regrole AND has_function_privilege('beyond_pooler', oid, 'execute')
     AND has_schema_privilege('beyond_pooler', pronamespace, 'usage') AND has_database_privilege('beyond_pooler', 'postgres', 'connect')`,
    [LOOKUP_BODY],
  )
  if (found.rowCount) return []
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
  return ["made PgBouncer's lookup function"]
}

async function ensureDatabase(client: Client, { name, owner }: DatabaseSetting, logger: Logger): Promise<readonly string[]> {
  const found = await client.query('SELECT FROM pg_database WHERE datname = $1', [name])
  if (found.rowCount) return []
  logger.info({ database: name }, 'creating the database')
  await client.query(`CREATE DATABASE ${id(name)} OWNER ${id(owner)}`)
  return [`made database ${name}`]
}

async function ensureCdcMayConnect(client: Client, database: string): Promise<void> {
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

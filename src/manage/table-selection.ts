/** Which tables stream: all, or a list of `schema.table`, `table` (in public) and `schema.*`. Names as SQL spells them. */
export type TableName = { readonly schema: string; readonly table: string }
export type TableSelection = 'all' | { readonly tables: readonly TableName[]; readonly schemas: readonly string[] }

const NAME = '"(?:[^"]|"")+"|[A-Za-z_\\u0080-\\uffff][\\w$\\u0080-\\uffff]*'
const ENTRY = new RegExp(`\\s*(?:(${NAME})\\s*\\.\\s*)?(${NAME}|\\*)\\s*(?:,|$)`, 'y')

/** Reads `shop.orders, "Odd Name", app.*`; undefined when the text is no such list. */
export function parseTableList(text: string): TableSelection | undefined {
  const tables: TableName[] = []
  const schemas: string[] = []
  ENTRY.lastIndex = 0
  while (ENTRY.lastIndex < text.length) {
    const match = ENTRY.exec(text)
    if (!match) return undefined
    const [, schema, table] = match
    if (table !== '*') tables.push({ schema: schema === undefined ? 'public' : unquote(schema), table: unquote(table) })
    else if (schema !== undefined) schemas.push(unquote(schema))
    else return undefined
  }
  return tables.length + schemas.length > 0 ? { tables, schemas } : undefined
}

/** Unquoted names are folded to lower case, as Postgres does. */
function unquote(name: string): string {
  return name.startsWith('"') ? name.slice(1, -1).replaceAll('""', '"') : name.toLowerCase()
}

/**
 * Connection strings of libpq, both forms: `host=a port=1` and `postgresql://a:1/db`. Pure.
 * Source: https://www.postgresql.org/docs/18/libpq-connect.html#LIBPQ-CONNSTRING
 */
export type Conninfo = Readonly<Record<string, string>>

/** Reads either form; undefined when the text is neither, or names no host. A later key wins, as in libpq. */
export function parseConninfo(text: string): Conninfo | undefined {
  const parsed = /^postgres(ql)?:\/\//.test(text) ? parseUri(text) : parsePairs(text)
  return parsed?.['host'] || parsed?.['hostaddr'] ? parsed : undefined
}

/** `key=value` pairs; every value is quoted, so that none can end early. */
export function formatConninfo(conninfo: Conninfo): string {
  return Object.entries(conninfo)
    .map(([key, value]) => `${key}='${value.replaceAll(/['\\]/g, '\\$&')}'`)
    .join(' ')
}

/** The string without its password: fit for arguments, config files and logs. */
export function withoutPassword({ password: _password, ...rest }: Conninfo): Conninfo {
  return rest
}

/** A line of a password file that serves for every host, database and role. */
export function passfileLine(password: string): string {
  return `*:*:*:*:${password.replaceAll(/[:\\]/g, '\\$&')}\n`
}

const PAIR = /\s*([a-z_]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?=\s|$)/y

function parsePairs(text: string): Conninfo | undefined {
  const found: Record<string, string> = {}
  PAIR.lastIndex = 0
  const end = text.trimEnd().length
  while (PAIR.lastIndex < end) {
    const match = PAIR.exec(text)
    if (!match) return undefined
    found[match[1]] = (match[2] ?? match[3]).replaceAll(/\\(.)/gs, '$1')
  }
  return found
}

function parseUri(text: string): Conninfo | undefined {
  // Several hosts are allowed by libpq, and not by the URL parser; a primary is one host, or a list in the other form.
  const url = URL.parse(text.replace(/^postgres(ql)?:/, 'postgresql:'))
  if (!url) return undefined
  try {
    const parts = {
      host: decodeURIComponent(url.hostname).replace(/^\[(.*)\]$/, '$1'),
      port: url.port,
      user: decodeURIComponent(url.username),
      password: decodeURIComponent(url.password),
      dbname: decodeURIComponent(url.pathname.slice(1)),
      ...Object.fromEntries(url.searchParams),
    }
    return Object.fromEntries(Object.entries(parts).filter(([, value]) => value !== ''))
  } catch {
    return undefined // a stray % in it
  }
}

/** The table of docs/settings.md, from the definitions themselves; a test keeps the page and the program together. */
import { boxSettings, type Definition, type Need } from './settings.ts'

const NEEDS: Readonly<Record<Need, string>> = { live: 'no', postgres: 'of Postgres', box: 'of the box' }

export function settingsTable(): string {
  const cell = (text: string): string => text.replaceAll('|', '\\|')
  const rows = Object.values<Definition<unknown>>(boxSettings).map(({ env, flag, type, fallback, otherwise, about, need }) => {
    const text = otherwise ?? (fallback === undefined || fallback === false || (Array.isArray(fallback) && fallback.length === 0) ? '' : String(fallback))
    const key = flag === undefined ? `\`${env}\`` : `\`${env}\`, \`${flag.split(' ')[0]}\``
    return `| ${key} | ${cell(type)} | ${cell(text)} | ${cell(about)} | ${NEEDS[need]} |`
  })
  return ['| key, flag | type | default | effect | restart |', '|---|---|---|---|---|', ...rows, ''].join('\n')
}

/**
 * Kills a boot wherever it may be killed and boots again: the result must be that of a boot that nobody disturbed.
 *
 *   node test/faults/boot-kills.ts [--steps] [--calls N] [--times N] [--seed S]
 *
 * --steps: around every step, one after the other on one volume. --calls N: N empty volumes, each boot killed after a random call that
 * changes something, up to three times. --times N: the same, killed from outside at a random moment. All three by default.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { bootSteps } from '../../src/manage/boot.ts'
import type { BoxFile } from '../../src/manage/box-file.ts'
import { scramVerifier } from '../../src/manage/scram.ts'
import { freePorts, kill, type Ports, processesIn, query, until } from '../manage/box-process.ts'
import type { Victim } from './boot-victim.ts'

const program = fileURLToPath(new URL('./boot-victim.ts', import.meta.url))
const verifier = scramVerifier('ann', Buffer.alloc(16, 7))

export type Death = Pick<Victim, 'step' | 'call' | 'ready'> & { readonly afterMs?: number }
export type Ended = { readonly ready: boolean; readonly calls: number; readonly ms: number; readonly stderr: string }

/** One volume, on which boots live and die. */
export class Volume implements AsyncDisposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'beyond-kills-'))
  readonly data = join(this.folder, 'box')
  readonly #ports: Ports

  constructor(ports: Ports) {
    this.#ports = ports
    chmodSync(this.folder, 0o755)
  }

  /** A boot that dies as it is told, at the latest when it is ready. */
  async boot(death: Death): Promise<Ended> {
    const { afterMs, ...told } = death
    const config = join(this.folder, 'victim.json')
    writeFileSync(config, JSON.stringify({ settings: this.#settings(), ready: true, ...told } satisfies Victim))
    const startedAt = performance.now()
    const child = spawn(process.execPath, [program, config], { stdio: ['ignore', 'pipe', 'pipe'], detached: true })
    let [stdout, stderr] = ['', '']
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
    const timer = afterMs === undefined ? undefined : setTimeout(() => kill(child.pid), afterMs)
    const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
    clearTimeout(timer)
    if (signal !== 'SIGKILL') throw new Error(`a boot that was to die with ${JSON.stringify(death)} ended with ${code ?? signal}:\n${stderr.slice(-3000)}`)
    const ready = stdout.startsWith('{') ? (JSON.parse(stdout) as { calls: number }) : undefined
    return { ready: ready !== undefined, calls: ready?.calls ?? 0, ms: performance.now() - startedAt, stderr }
  }

  /** A boot that nobody disturbs; what it leads to, secrets taken out. */
  async result(): Promise<string> {
    const { ready, stderr } = await this.boot({})
    if (!ready) throw new Error(`the boot after the last kill did not succeed:\n${stderr.slice(-3000)}`)
    return [...this.#files(), ...(await this.#database())].join('\n')
  }

  /** Ends everything that runs on it. */
  async quiet(): Promise<void> {
    for (const pid of processesIn(this.folder)) kill(pid)
    await until(() => processesIn(this.folder).length === 0)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.quiet()
    rmSync(this.folder, { recursive: true, force: true })
  }

  #settings(): Record<string, string> {
    const given = Object.entries(process.env).flatMap(([key, value]) => (/^BEYOND_PG(_BINDIR|BOUNCER)$/.test(key) && value ? [[key, value]] : []))
    return {
      ...(Object.fromEntries(given) as Record<string, string>),
      BEYOND_PG_DATA: this.data,
      BEYOND_PG_PORT: String(this.#ports.pooler),
      BEYOND_PG_POSTGRES_PORT: String(this.#ports.postgres),
      BEYOND_PG_NO_CDC: '1',
      BEYOND_PG_ROLES: `ann=${verifier}`,
      BEYOND_PG_DATABASES: 'shop=ann',
      BEYOND_PG_EXTENSIONS: 'citext@shop',
    }
  }

  /** Names, modes and owners of all that the box keeps for itself, and the content of what is not random. */
  #files(): string[] {
    const skipped = new Set(['postgres', 'run', 'log'])
    const walk = (path: string): string[] =>
      readdirSync(path).sort().flatMap((name) => {
        const below = join(path, name)
        const shown = relative(this.data, below).replace(/-\d{8}T\d{6}-[0-9a-f]+/, '-MADE') // when it was made
        const { mode, uid, gid } = lstatSync(below)
        const line = `${shown} ${mode.toString(8)} ${uid}:${gid}`
        if (skipped.has(shown)) return [line]
        if (lstatSync(below).isDirectory()) return [line, ...walk(below)]
        const isPlain = shown.startsWith('config/') || shown === 'box.json'
        return [isPlain ? `${line}\n${readFileSync(below, 'utf8').replaceAll(this.folder, '').replaceAll(/\d{4,5}\b/g, 'N')}` : line]
      })
    return walk(this.data)
  }

  async #database(): Promise<string[]> {
    const box = JSON.parse(readFileSync(join(this.data, 'box.json'), 'utf8')) as BoxFile
    const ask = `SELECT json_build_object(
      'roles', (SELECT json_agg(json_build_array(rolname, rolsuper, rolcanlogin, rolreplication) ORDER BY rolname) FROM pg_roles),
      'databases', (SELECT json_agg(json_build_array(datname, pg_get_userbyid(datdba)) ORDER BY datname) FROM pg_database),
      'extensions', (SELECT json_agg(extname ORDER BY extname) FROM pg_extension),
      'lookup', (SELECT count(*) FROM pg_proc WHERE pronamespace = to_regnamespace('beyond_pooler'))) AS all`
    const superuser = await query(box, ask)
    const ann = await query(box, "SELECT extname FROM pg_extension WHERE extname = 'citext'", { user: 'ann', password: 'ann', database: 'shop' })
    return [JSON.stringify(superuser), JSON.stringify(ann)]
  }
}

export const stepDeaths: readonly Death[] = bootSteps.flatMap(({ name }) => (['planned', 'done'] as const).map((moment) => ({ step: { name, moment } })))

/** Numbers that a seed gives, in [0, 1). Mulberry32. */
export function randomOf(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

/** Boots that die one after the other on one volume, then one that lives: its result. `between` kills what they left, too. */
export async function deathsThenResult(deaths: readonly Death[], between: (volume: Volume) => Promise<void>): Promise<string> {
  await using volume = new Volume(await freePorts())
  for (const death of deaths) {
    await volume.boot(death)
    await between(volume)
  }
  return await volume.result() // before the volume goes
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { steps: { type: 'boolean' }, calls: { type: 'string' }, times: { type: 'string' }, seed: { type: 'string' } } })
  const all = !values.steps && values.calls === undefined && values.times === undefined
  const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 31))
  const random = randomOf(seed)
  process.stdout.write(`seed ${seed}\n`)
  await using reference = new Volume(await freePorts())
  const first = await reference.boot({})
  const expected = await reference.result()
  await reference.quiet()
  process.stdout.write(`undisturbed: ${first.calls} calls, ${Math.round(first.ms)} ms\n`)
  /** Now and then the machine goes down, with all that runs on it. */
  const between = async (volume: Volume): Promise<void> => {
    if (random() < 0.3) await volume.quiet()
    await sleep(0)
  }
  const round = async (what: string, deaths: readonly Death[]): Promise<void> => {
    const result = await deathsThenResult(deaths, between)
    if (result !== expected) throw new Error(`${what}: another result than undisturbed\n${firstDifference(expected, result)}`)
    process.stdout.write(`${what}: the same\n`)
  }
  if (all || values.steps) await round(`${stepDeaths.length} step boundaries`, stepDeaths)
  const several = <T>(make: () => T): T[] => Array.from({ length: 1 + Math.floor(random() * 3) }, make)
  const calls = Number(values.calls ?? (all ? 20 : 0))
  for (let n = 1; n <= calls; n++) {
    const deaths = several(() => ({ call: 1 + Math.floor(random() * first.calls) }))
    await round(`calls, round ${n} (${deaths.map(({ call }) => call).join(', ')})`, deaths)
  }
  const times = Number(values.times ?? (all ? 20 : 0))
  for (let n = 1; n <= times; n++) {
    const deaths = several(() => ({ afterMs: Math.floor(random() * first.ms) }))
    await round(`times, round ${n} (${deaths.map(({ afterMs }) => afterMs).join(', ')} ms)`, deaths)
  }
}

export function firstDifference(expected: string, actual: string): string {
  const [a, b] = [expected.split('\n'), actual.split('\n')]
  const at = a.findIndex((line, index) => line !== b[index])
  return `expected: ${a[at] ?? '(nothing)'}\nactual:   ${b[at] ?? '(nothing)'}`
}

if (import.meta.main) await main()

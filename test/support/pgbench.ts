/** pgbench beside a test: it runs until it is stopped, and knows of every query that failed. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'

export type BenchTarget = {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  readonly database: string
}

export type BenchResult = {
  readonly seconds: number
  /** Transactions per second, by the second. */
  readonly rates: readonly number[]
  /** What pgbench said of failures: empty when there were none. */
  readonly failures: readonly string[]
}

const program = (): string => join(process.env['BEYOND_PG_BINDIR'] ?? '', 'pgbench')
const environment = ({ password }: BenchTarget): NodeJS.ProcessEnv => ({ ...process.env, PGPASSWORD: password, PGSSLMODE: 'prefer' })
const address = ({ host, port, user }: BenchTarget): string[] => ['-h', host, '-p', String(port), '-U', user]

/** Makes its tables. */
export function preparePgbench(target: BenchTarget, scale: number): void {
  const { status, stderr } = spawnSync(program(), ['-i', '-q', '-s', String(scale), ...address(target), target.database], { env: environment(target), encoding: 'utf8' })
  if (status !== 0) throw new Error(`pgbench -i failed: ${stderr}`)
}

export class Pgbench implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #began = performance.now()
  #text = ''
  #ended = false

  constructor(target: BenchTarget, clients: number, ...more: string[]) {
    const args = ['-n', '-c', String(clients), '-j', '2', '-T', '86400', '-P', '1', ...more, ...address(target), target.database]
    this.#child = spawn(program(), args, { env: environment(target), stdio: ['ignore', 'pipe', 'pipe'] })
    for (const stream of [this.#child.stdout, this.#child.stderr]) stream?.setEncoding('utf8').on('data', (text: string) => (this.#text += text))
    this.#child.once('exit', () => (this.#ended = true))
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  /** So far. */
  result(): BenchResult {
    const lines = this.#text.split('\n').filter((line) => line !== '')
    const progress = lines.map((line) => /^progress: .* s, ([\d.]+) tps, .* (\d+) failed/.exec(line))
    const failures = lines.filter((line, index) => !line.startsWith('pgbench (') && (progress[index] === null || progress[index][2] !== '0'))
    return {
      seconds: (performance.now() - this.#began) / 1000,
      rates: progress.flatMap((match) => (match ? [Number(match[1])] : [])),
      failures: [...failures, ...(this.#ended ? ['pgbench has ended by itself'] : [])],
    }
  }

  async stop(): Promise<BenchResult> {
    const result = this.result()
    if (!this.#ended) {
      this.#child.kill('SIGKILL')
      await once(this.#child, 'exit')
    }
    return result
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }
}

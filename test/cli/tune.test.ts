import assert from 'node:assert/strict'
import { PassThrough } from 'node:stream'
import { test } from 'node:test'
import { shownSize, table } from '../../src/cli/format-tuning.ts'
import { tuneCommand } from '../../src/cli/tune.ts'

async function tune(args: string[], env: Record<string, string> = {}): Promise<string> {
  const stdout = new PassThrough()
  await tuneCommand({ stdout, env }).parseAsync(args, { from: 'user' })
  return String(stdout.read())
}

test('--explain says value, reason and whether a restart is needed', async () => {
  const text = await tune(['--explain', '--memory', '4GB', '--cpus', '2', '--tier', 'primary'])
  assert.match(text, /^4GB \(--memory\), 2 CPUs \(--cpus\), primary, production$/m)
  assert.match(text, /^shared_buffers +1024MB +restart +a quarter of memory$/m)
  assert.match(text, /^work_mem +\d+kB +reload +what is left, for \d+ connections/m)
  assert.match(text, /^full_page_writes +on +reload/m)
})

test('--json says the same to programs', async () => {
  const { machine, settings, tier, ephemeral, profile } = JSON.parse(await tune(['--json', '--memory', '512MB', '--cpus', '1.5', '--ephemeral']))
  assert.deepEqual(machine, { memoryBytes: 512 * 2 ** 20, memoryFrom: '--memory', cpus: 1.5, cpusFrom: '--cpus' })
  assert.deepEqual([tier, ephemeral, profile], ['primary', true, 'production'])
  const byName = Object.fromEntries(settings.map((setting: { name: string }) => [setting.name, setting]))
  assert.deepEqual(byName.shared_buffers, { name: 'shared_buffers', value: '128MB', reason: 'a quarter of memory', restart: true })
  assert.equal(byName.autovacuum_naptime.value, '10min')
})

test('without either it is the file that Postgres reads', async () => {
  const text = await tune(['--memory', '16GB', '--cpus', '8', '--profile', 'development'])
  assert.match(text, /^shared_buffers = '512MB'$/m)
  for (const line of text.trim().split('\n')) assert.match(line, /^#|^\w+ = '[^']*'$/)
})

test('the environment of a box counts, and flags win over it', async () => {
  const env = { BEYOND_PG_MEMORY_MB: '1024', BEYOND_PG_TIER: 'replica', BEYOND_PG_PRIMARY_CONNINFO: 'host=primary' }
  assert.match(await tune(['--explain'], env), /^1GB \(BEYOND_PG_MEMORY_MB\), .*, replica, production$/m)
  assert.match(await tune(['--explain', '--memory', '2GB', '--tier', 'sink'], env), /^2GB \(--memory\).*sink, production\nA sink runs no Postgres/m)
})

for (const args of [['--memory', '4'], ['--memory', 'lots'], ['--memory', '9999TB'], ['--cpus', '0'], ['--cpus', 'all'], ['--volume', '1kB']]) {
  test(`${args.join(' ')} is refused with what would do`, async () => {
    await assert.rejects(tune(args), { code: 'BAD_ARGUMENT', message: new RegExp(`^${args[0]} must be .* not "${args[1]}"\\.$`) })
  })
}

test('sizes and tables for people', () => {
  assert.deepEqual([512, 1536, 2 ** 30 * 1.25, 2 ** 40].map(shownSize), ['512B', '1.5kB', '1.3GB', '1TB'])
  assert.equal(table([['a', 'b'], ['long', 'c']]), 'a     b\nlong  c\n')
})

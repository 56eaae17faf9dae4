import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { NODES_PER_PLAN, planTuning, settingsOf, type TuningInput } from '../../src/manage/tuning.ts'
import { testSeed as seed } from '../support/random.ts'

const MB = 2 ** 20
const GB = 2 ** 30

/**
 * pgtune's published rules (https://github.com/le0pard/pgtune), database type "web", solid-state disk, Linux; work_mem floor 4MB.
 * Its own unit is kB; here they are MB.
 */
function pgtune(memory: number, cpus: number): Record<string, number> {
  const connections = 200
  const sharedBuffers = memory / 4
  const workers = cpus >= 4 ? cpus : 8 // without parallel settings max_worker_processes is Postgres's own 8
  return {
    shared_buffers: sharedBuffers,
    effective_cache_size: (memory * 3) / 4,
    maintenance_work_mem: Math.min(memory / 16, 2048),
    work_mem: Math.max(4, (memory - sharedBuffers) / ((connections + workers) * 3)),
    max_connections: connections,
    max_wal_size: 4096,
    min_wal_size: 1024,
    max_parallel_workers_per_gather: cpus >= 4 ? Math.min(4, Math.ceil(cpus / 2)) : 2,
    random_page_cost: 1.1,
    effective_io_concurrency: 200,
    checkpoint_completion_target: 0.9,
  }
}

const FEWER_CONNECTIONS = 'behind a pooler 16 × √(memory / 256MB) serve more clients than 200 direct connections; 20 are in reserve'
const OWN_SHARE = 'what the supervisor, CDC and maintenance take is subtracted first, and there are fewer connections to share'
const RECOVERY = 'replayed after a crash by one process: a quarter of memory, so that small machines come back soon'
const IO_WORKERS = 'Postgres 18 reads through I/O workers, which take less at once'

/** Per machine: our value beside pgtune's where they differ, with the reason; all others must be equal. */
const machines: { memory: number; cpus: number; differs: Record<string, [ours: number, theirs: number, why: string]> }[] = [
  {
    memory: 256,
    cpus: 1,
    differs: {
      shared_buffers: [58, 64, 'the supervisor and the kernel need 80MB of so little'],
      work_mem: [1, 4, '4MB × 208 × 3 would be ten times the memory'],
      max_connections: [36, 200, FEWER_CONNECTIONS],
      max_wal_size: [512, 4096, RECOVERY],
      min_wal_size: [128, 1024, RECOVERY],
      max_parallel_workers_per_gather: [0, 2, 'one processor has nothing to run in parallel'],
      effective_io_concurrency: [32, 200, IO_WORKERS],
    },
  },
  {
    memory: 512,
    cpus: 2,
    differs: {
      work_mem: [1.6, 4, '4MB × 208 × 3 would be five times the memory'],
      max_connections: [42, 200, FEWER_CONNECTIONS],
      max_wal_size: [512, 4096, RECOVERY],
      min_wal_size: [128, 1024, RECOVERY],
      max_parallel_workers_per_gather: [1, 2, 'half of two processors'],
      effective_io_concurrency: [32, 200, IO_WORKERS],
    },
  },
  {
    memory: 4096,
    cpus: 2,
    differs: {
      work_mem: [7.8, 4.9, OWN_SHARE],
      max_connections: [84, 200, FEWER_CONNECTIONS],
      max_wal_size: [1024, 4096, RECOVERY],
      min_wal_size: [256, 1024, RECOVERY],
      max_parallel_workers_per_gather: [1, 2, 'half of two processors'],
      effective_io_concurrency: [32, 200, IO_WORKERS],
    },
  },
  {
    memory: 16_384,
    cpus: 8,
    differs: {
      work_mem: [19.7, 19.7, OWN_SHARE],
      max_connections: [148, 200, FEWER_CONNECTIONS],
      effective_io_concurrency: [32, 200, IO_WORKERS],
    },
  },
  {
    memory: 131_072,
    cpus: 32,
    differs: {
      work_mem: [70.1, 141.2, 'a sixteenth goes to autovacuum, and connections grow with memory'],
      max_connections: [382, 200, FEWER_CONNECTIONS],
      effective_io_concurrency: [32, 200, IO_WORKERS],
    },
  },
  {
    memory: 1_048_576,
    cpus: 128,
    differs: {
      work_mem: [256, 799.2, 'at most 256MB: beyond, one wrong plan costs more than it gains'],
      max_connections: [420, 200, FEWER_CONNECTIONS],
      effective_io_concurrency: [32, 200, IO_WORKERS],
    },
  },
]

for (const { memory, cpus, differs } of machines) {
  test(`${memory}MB and ${cpus} processors beside pgtune`, () => {
    const ours = settingsOf(planTuning({ memoryBytes: memory * MB, cpus }))
    const theirs = pgtune(memory, cpus)
    for (const [name, value] of Object.entries(theirs)) {
      const [expected, published, why] = differs[name] ?? [value, value, 'the same']
      const near = (a: number, b: number): boolean => Math.abs(a - b) <= Math.max(0.05, b * 0.01)
      assert.ok(near(value, published), `pgtune's ${name} is ${value}`)
      assert.ok(near(megabytes(ours[name]), expected), `${name} is ${ours[name]}, not ${expected}: ${why}`)
    }
  })
}

const anyInput: fc.Arbitrary<TuningInput> = fc.record({
  memoryBytes: fc.integer({ min: 128, max: 1_048_576 }).map((memory) => memory * MB),
  cpus: fc.double({ min: 0.1, max: 512, noNaN: true }),
  profile: fc.constantFrom('production', 'development'),
  memoryIsGiven: fc.boolean(),
  tier: fc.constantFrom('primary', 'replica'),
  ephemeral: fc.boolean(),
  volumeBytes: fc.option(fc.integer({ min: 1, max: 10_000 }).map((gigabytes) => gigabytes * GB), { nil: undefined }),
})

test('more memory never means a smaller value', () => {
  const grow = fc.integer({ min: 1, max: 4096 })
  fc.assert(
    fc.property(anyInput, grow, (input, more) => {
      const small = settingsOf(planTuning(input))
      const large = settingsOf(planTuning({ ...input, memoryBytes: input.memoryBytes + more * MB }))
      for (const [name, value] of Object.entries(small)) {
        if (typeof value === 'boolean' || Number.isNaN(megabytes(value))) assert.equal(large[name], value, name)
        else assert.ok(megabytes(large[name]) >= megabytes(value), `${name}: ${value}, then ${large[name]}`)
      }
    }),
    { seed, numRuns: 2000 },
  )
})

test('all of it together fits into memory, and on a shared machine into its share', () => {
  fc.assert(
    fc.property(anyInput, (input) => {
      const plan = planTuning(input)
      const value = (name: string): number => megabytes(settingsOf(plan)[name])
      const sum =
        value('shared_buffers') +
        (value('max_connections') + value('max_parallel_workers')) * value('work_mem') * NODES_PER_PLAN +
        value('maintenance_work_mem') +
        value('autovacuum_max_workers') * value('autovacuum_work_mem')
      assert.ok(sum * MB <= plan.budgetBytes, `${sum}MB of ${plan.budgetBytes / MB}MB`)
      const share = input.profile === 'development' && !input.memoryIsGiven ? Math.max(256 * MB, Math.min(2 * GB, input.memoryBytes / 8)) : input.memoryBytes
      assert.ok(plan.budgetBytes <= share)
    }),
    { seed, numRuns: 2000 },
  )
})

test('connections cover what the pools may open and the reserve', () => {
  fc.assert(
    fc.property(anyInput, (input) => {
      const { maxConnections, poolConnections } = planTuning(input)
      assert.ok(poolConnections >= 16 && poolConnections + 20 <= maxConnections)
    }),
    { seed },
  )
})

test('every setting has one reason of one line', () => {
  for (const ephemeral of [false, true]) {
    const { settings } = planTuning({ memoryBytes: GB, cpus: 2, ephemeral })
    assert.equal(new Set(settings.map(({ name }) => name)).size, settings.length)
    for (const { name, reason } of settings) assert.match(reason, /^.{5,130}$/, name)
  }
})

test('a box on a developer’s machine stays small', () => {
  const tune = (memoryBytes: number, memoryIsGiven = false) => settingsOf(planTuning({ memoryBytes, memoryIsGiven, cpus: 8, profile: 'development' }))
  const settings = tune(16 * GB)
  assert.equal(settings['shared_buffers'], '512MB')
  assert.equal(settings['max_wal_size'], '512MB')
  assert.equal(tune(64 * GB)['shared_buffers'], '512MB')
  assert.equal(tune(GB)['shared_buffers'], '64MB')
  assert.equal(tune(8 * GB, true)['shared_buffers'], '2048MB', 'unless somebody says what it may take')
})

test('a volume that is thrown away is left alone in the background', () => {
  const lasting = settingsOf(planTuning({ memoryBytes: 4 * GB, cpus: 4 }))
  const ephemeral = settingsOf(planTuning({ memoryBytes: 4 * GB, cpus: 4, ephemeral: true }))
  assert.deepEqual([lasting['autovacuum_naptime'], ephemeral['autovacuum_naptime']], ['1min', '10min'])
  assert.deepEqual([lasting['autovacuum_max_workers'], ephemeral['autovacuum_max_workers']], [3, 1])
  assert.deepEqual([lasting['checkpoint_timeout'], ephemeral['checkpoint_timeout']], ['30min', '1h'])
  assert.equal(ephemeral['full_page_writes'], true)
})

test('WAL takes no more than a tenth of a small volume', () => {
  const settings = settingsOf(planTuning({ memoryBytes: 16 * GB, cpus: 4, volumeBytes: 10 * GB }))
  assert.equal(settings['max_wal_size'], '1024MB')
  assert.equal(settings['min_wal_size'], '256MB')
})

test('a replica has at least what its primary has, or it would not replay', () => {
  const primary = { maxConnections: 300, maxWorkerProcesses: 40 }
  const replica = planTuning({ memoryBytes: 2 * GB, cpus: 2, tier: 'replica', primary })
  assert.equal(settingsOf(replica)['max_connections'], 300)
  assert.equal(settingsOf(replica)['max_worker_processes'], 40)
  assert.match(replica.settings.find(({ name }) => name === 'max_connections')?.reason ?? '', /primary/)
  assert.equal(settingsOf(planTuning({ memoryBytes: 2 * GB, cpus: 2, primary }))['max_connections'], 65, 'the primary itself minds only itself')
})

test('a sink runs no Postgres, so there is nothing to tune', () => {
  assert.deepEqual(planTuning({ memoryBytes: GB, cpus: 1, tier: 'sink' }).settings, [])
})

test('a build without LZ4 compresses in its own way', () => {
  assert.equal(settingsOf(planTuning({ memoryBytes: GB, cpus: 1, lz4: false }))['wal_compression'], 'pglz')
})

/** The number of a value, sizes in MB; NaN for words and durations. */
function megabytes(value: string | number | boolean | undefined): number {
  if (typeof value === 'number') return value
  const [, digits, unit] = /^(\d+)(kB|MB)$/.exec(String(value)) ?? []
  return digits === undefined ? Number.NaN : Number(digits) / (unit === 'kB' ? 1024 : 1)
}

/**
 * Worker: commits at a given rate, whatever the answers do (open loop), over several connections. Tells for each id when its
 * COMMIT was sent and when it returned.
 */
import pg from 'pg'
import { now, serveWorker } from './processes.ts'
import { LATENCY_TABLE } from './receiver.ts'

export type WriterTask = {
  readonly kind: 'write'
  readonly socketDirectory: string
  readonly port: number
  readonly perSecond: number
  readonly seconds: number
  readonly firstId: number
}
export type Commits = { readonly kind: 'commits'; readonly commits: readonly (readonly [id: number, sentAt: number, returnedAt: number])[] }

const CONNECTIONS = 8

serveWorker<WriterTask>(async ({ socketDirectory, port, perSecond, seconds, firstId }, send) => {
  const idle = await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      const client = new pg.Client({ host: socketDirectory, port, user: 'postgres', database: 'postgres' })
      await client.connect()
      return client
    }),
  )
  const clients = [...idle]
  const total = Math.round(perSecond * seconds)
  const commits: [number, number, number][] = []
  const startedAt = now() + 50
  let issued = 0
  let open = 0
  const done = Promise.withResolvers<void>()

  const commit = async (client: pg.Client, id: number): Promise<void> => {
    await client.query(`BEGIN; INSERT INTO ${LATENCY_TABLE} VALUES (${id}, ${id % 1000}, 'order number ${id}', ${id % 977}.25, '2026-03-04 05:06:07.089+00')`)
    const sentAt = now()
    await client.query('COMMIT')
    commits.push([id, sentAt, now()])
    idle.push(client)
    open--
    pump()
  }
  /** All that is due by now, as far as connections are free. */
  const pump = (): void => {
    while (issued < total && idle.length > 0 && startedAt + (issued / perSecond) * 1000 <= now()) {
      open++
      commit(idle.pop()!, firstId + issued++).catch(done.reject)
    }
    if (issued === total && open === 0) done.resolve()
  }
  const timer = setInterval(pump, 1)
  await done.promise
  clearInterval(timer)
  await Promise.all(clients.map((client) => client.end()))
  send({ kind: 'commits', commits } satisfies Commits)
})

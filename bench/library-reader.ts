/** Worker: pg-logical-replication with its own PgoutputPlugin, straight from the slot. Acknowledges nothing, as one must who has yet to store. */
import { LogicalReplicationService, PgoutputPlugin, type Pgoutput } from 'pg-logical-replication'
import { serveWorker } from './processes.ts'
import { Receiver, type Expect } from './receiver.ts'

export type LibraryTask =
  | ({ readonly kind: 'read'; readonly socketDirectory: string; readonly port: number; readonly slot: string; readonly publication: string } & Expect)
  | { readonly kind: 'collect'; readonly count: number }

let receiver: Receiver | undefined

serveWorker<LibraryTask>(async (task, send) => {
  if (task.kind === 'collect') return receiver?.collect(task.count)
  const current = (receiver = new Receiver(task.rows, send))
  const { socketDirectory, port, slot, publication } = task
  const service = new LogicalReplicationService({ host: socketDirectory, port, user: 'postgres', database: 'postgres' }, { acknowledge: { auto: false, timeoutSeconds: 0 } })
  service.on('start', () => send({ kind: 'streaming' }))
  service.on('data', (_lsn: string, message: Pgoutput.Message) => {
    if (message.tag === 'insert') current.row(message.relation.name, null, message.new)
    else if (message.tag === 'update') current.row(message.relation.name, message.old, message.new)
    else if (message.tag === 'delete') current.row(message.relation.name, message.old, null)
  })
  await service.subscribe(new PgoutputPlugin({ protoVersion: 2, publicationNames: [publication] }), slot)
})

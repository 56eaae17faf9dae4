/** Worker: one subscription over QUIC, through the client library. Tells when it streams, and what it has received. */
import { subscribe, type ConnectOptions } from '../src/transport/client.ts'
import { serveWorker } from './processes.ts'
import { Receiver, type Expect } from './receiver.ts'

export type SubscriberTask =
  | ({ readonly kind: 'read'; readonly connect: Pick<ConnectOptions, 'server' | 'tls'>; readonly from: 'beginning' | 'now' } & Expect)
  | { readonly kind: 'collect'; readonly count: number }

let receiver: Receiver | undefined

serveWorker<SubscriberTask>(async (task, send) => {
  if (task.kind === 'collect') return receiver?.collect(task.count)
  const current = (receiver = new Receiver(task.rows, send))
  const changes = subscribe({
    ...task.connect,
    from: task.from,
    onState: ({ status }) => {
      if (status === 'streaming') send({ kind: 'streaming' })
    },
  })
  for await (const batch of changes.batches())
    for (const event of batch) if ('before' in event) current.row(event.table.name, event.before, event.after)
})

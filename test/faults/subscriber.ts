/** A subscriber that may be killed at any moment: a child process, told its server, certificates and record as JSON. */
import { subscribe, type ConnectOptions } from '../../src/transport/client.ts'
import { RecordFile } from './record.ts'

export type SubscriberConfig = { readonly connect: ConnectOptions; readonly record: string }

const { connect, record } = JSON.parse(process.argv[2]) as SubscriberConfig
const file = new RecordFile(record)
const stop = new AbortController()
process.once('SIGTERM', () => stop.abort())
const changes = subscribe({
  ...connect,
  client: 'kill loop',
  from: file.position ?? 'beginning',
  signal: stop.signal,
  reconnect: { minMs: 20, maxMs: 250, connectTimeoutMs: Infinity },
})
for await (const batch of changes.batches()) file.append(batch, changes.position!)
file.close()

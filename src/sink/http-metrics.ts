/**
 * Metrics in the text format of Prometheus. Pure.
 * Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4)
 */
import type { SinkActivity, SinkStatus } from './sink.ts'

/** What the server has counted since it started. */
export type HttpCounters = {
  readonly requests: Map<number, number>
  bytesSent: number
  downloads: number
  eventStreams: number
  connections: number
  verifications: number
}

export const newCounters = (): HttpCounters => ({ requests: new Map(), bytesSent: 0, downloads: 0, eventStreams: 0, connections: 0, verifications: 0 })

const activities: readonly SinkActivity[] = ['idle', 'connecting', 'streaming', 'sealed', 'disk-full', 'halted']

type Sample = readonly [labels: string, value: bigint | number]

export function metricsText(status: SinkStatus, counters: HttpCounters): string {
  const family = (name: string, type: 'gauge' | 'counter', help: string, samples: readonly Sample[]): string =>
    samples.length === 0
      ? ''
      : `# HELP beyond_pg_sink_${name} ${help}\n# TYPE beyond_pg_sink_${name} ${type}\n${samples.map(([labels, value]) => `beyond_pg_sink_${name}${labels} ${value}\n`).join('')}`
  const one = (value: bigint | number | undefined): Sample[] => (value === undefined ? [] : [['', value]])
  return [
    family('activity', 'gauge', 'What the sink does: 1 for that, 0 for all else.', activities.map((each) => [`{activity="${each}"}`, each === status.activity ? 1 : 0])),
    family('problem', 'gauge', 'Whether something is wrong that needs a person.', [['', status.problem ? 1 : 0]]),
    family('generation', 'gauge', 'Generation of the primary that it takes WAL from.', one(status.generation)),
    family('seal_generation', 'gauge', 'Generation that sealed it.', one(status.seal?.generation)),
    family('flushed_lsn_bytes', 'gauge', 'Verified and fsynced up to here, as a byte position.', one(status.flushed?.lsn)),
    family('flushed_timeline', 'gauge', 'Timeline of that position.', one(status.flushed?.timeline)),
    family('coverage_start_lsn_bytes', 'gauge', 'Start of the WAL that is held without a gap.', one(status.coverageStart)),
    family('floor_lsn_bytes', 'gauge', 'Lowest pin: nothing from here on is removed.', one(status.floor)),
    family('segments', 'gauge', 'Segments held.', one(status.segments)),
    family('stored_bytes', 'gauge', 'Bytes on disk.', one(status.storedBytes)),
    family('free_bytes', 'gauge', 'Bytes free on its volume.', one(status.freeBytes)),
    family('quarantined', 'gauge', 'Files put aside because they are not right.', one(status.quarantined)),
    family('receiver_restarts_total', 'counter', 'Ends of the receiver that nobody asked for.', one(status.receiverRestarts)),
    family('http_requests_total', 'counter', 'Requests answered, by status.', [...counters.requests].map(([code, count]) => [`{status="${code}"}`, count])),
    family('http_sent_bytes_total', 'counter', 'Bytes of segments and histories sent.', one(counters.bytesSent)),
    family('http_downloads', 'gauge', 'Downloads at the moment.', one(counters.downloads)),
    family('http_event_streams', 'gauge', 'Event streams at the moment.', one(counters.eventStreams)),
    family('http_connections', 'gauge', 'Connections at the moment.', one(counters.connections)),
  ].join('')
}

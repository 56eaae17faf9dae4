/** The management socket: open from the moment the directory is ours, so that a long start can be watched, until all is stopped. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { codeOf } from '../../errors.ts'
import { version } from '../../version.ts'
import { localAddress } from '../box-config.ts'
import { metricsOf } from '../metrics.ts'
import type { Reloaded } from '../reload.ts'
import { startedAtMs } from '../process-identity.ts'
import { boxMethods, reloadMethod, shutdownMethod, upgradeMethod } from '../rpc-methods.ts'
import { RpcServer } from '../rpc-server.ts'
import { socketPath } from '../rpc-socket.ts'
import { type BoxView, gatherStatus } from '../status.ts'
import type { ChildFacts } from '../status-facts.ts'
import type { SupervisedChild } from '../supervised-child.ts'
import { type Boot, type Step, will } from './step.ts'

export const managementSocket: Step = {
  name: 'management socket',
  look: (boot) => {
    const path = socketPath(boot.layout.root)
    return will(`listen on ${path}`, async () => {
      const view = viewOf(boot)
      for (const [name, each] of boxMethods(view, join(boot.layout.log, 'beyond-pg.log'))) boot.methods.set(name, each)
      const server = await RpcServer.listen({ path, methods: boot.methods, logger: boot.logger })
      boot.defer(async () => server[Symbol.asyncDispose]())
      return `listening on ${path}${await metricsFor(boot, view)}`
    })
  },
}

/** A port that can't be had costs the metrics, not the database. */
async function metricsFor(boot: Boot, view: BoxView): Promise<string> {
  const { metricsPort } = boot.config.settings
  if (metricsPort === undefined) return ''
  const { serveMetrics } = await import('../metrics-http.ts') // an HTTP server is 7 MB
  try {
    const metrics = await serveMetrics(metricsPort, async (signal) => metricsOf(await gatherStatus(view, { sizes: true }, signal)))
    boot.defer(async () => metrics[Symbol.asyncDispose]())
    return `, and with metrics on port ${metrics.port}`
  } catch (error) {
    if (codeOf(error) !== 'PORT_IN_USE') throw error
    const { message } = error as Error
    boot.problems.push(message)
    boot.logger.error({ err: { message } }, 'there are no metrics over HTTP')
    return ''
  }
}

/** What only the program around the box can do. */
export type RunnerRequests = {
  readonly stop: () => void
  /** Throws when the program on disk does not start. */
  readonly checkSuccessor: () => Promise<void>
  readonly handOver: () => void
}

/** From the end of the boot on, changes can be asked for, too. */
export function offerChanges(boot: Boot, { reload, ...requests }: { readonly reload: () => Promise<Reloaded> } & Partial<RunnerRequests>): void {
  const view = viewOf(boot)
  const { methods } = boot
  const { stop, checkSuccessor, handOver } = requests
  methods.set('reload', reloadMethod(view, reload))
  if (stop) methods.set('shutdown', shutdownMethod(stop))
  if (checkSuccessor && handOver) methods.set('upgrade', upgradeMethod(view, checkSuccessor, handOver))
}

const startedAt = new Date(Date.now() - process.uptime() * 1000).toISOString()

/** Looks at the boot whenever it is asked: what is not there yet is told as such. */
function viewOf(boot: Boot): BoxView {
  const { layout } = boot
  const password = (role: 'beyond_admin' | 'beyond_pooler'): { user: string; password: string } | undefined =>
    boot.passwords && { user: role, password: boot.passwords[role] }
  const { tlsFiles } = layout
  return {
    supervisor: () => ({
      directory: layout.root,
      version,
      tier: boot.config.settings.tier,
      pid: process.pid,
      startedAt,
      memoryBytes: process.memoryUsage.rss(),
      problems: [...boot.problems],
      ready: boot.box !== undefined,
    }),
    children: () => childFacts(boot),
    database: () => {
      const login = password('beyond_admin')
      return login && { ...login, host: layout.sockets, port: boot.config.postgresPort, database: 'postgres' }
    },
    pooler: () => {
      const login = password('beyond_pooler')
      return login && { ...login, host: localAddress(boot.config.listen), port: boot.config.poolerPort, database: 'postgres', ca: readFileSync(tlsFiles.ca, 'utf8') }
    },
    consoles: () => {
      const login = password('beyond_pooler')
      return login ? (boot.children.pooler?.sockets ?? []).map((host) => ({ ...login, host, port: boot.config.poolerPort })) : []
    },
    changes: () => {
      const { cdc, listen } = boot.config
      const host = localAddress(listen)
      if (!cdc) return undefined
      return {
        server: host.includes(':') ? `[${host}]:${cdc.quicPort}` : `${host}:${cdc.quicPort}`,
        tls: { caFile: tlsFiles.ca, certFile: tlsFiles.clientCertificate, keyFile: tlsFiles.clientKey },
      }
    },
    certificates: () => [
      { name: 'server', path: tlsFiles.serverCertificate },
      { name: 'client', path: tlsFiles.clientCertificate },
      { name: 'authority', path: tlsFiles.ca },
    ],
    diskPath: layout.root,
  }
}

function childFacts({ children }: Boot): readonly ChildFacts[] {
  const all = [children.postgres, ...(children.pooler?.children ?? []), children.cdc].filter((child) => child !== undefined)
  return all.map(factsOf)
}

function factsOf({ name, state, restarts }: SupervisedChild): ChildFacts {
  const iso = (ms: number): string => new Date(ms).toISOString()
  const pid = 'process' in state ? state.process.pid : undefined
  return {
    name,
    status: state.status,
    pid: pid ?? null,
    // One that was adopted serves for longer than we know it.
    since: state.status === 'running' ? iso(Math.min(state.since, (pid === undefined ? undefined : startedAtMs(pid)) ?? state.since)) : null,
    nextAttempt: state.status === 'backing-off' ? iso(state.untilMs) : null,
    restarts,
  }
}

/** What a box is told: flags and settings become one readonly object here, once, with all checks that concern more than one of them. */
import { BlockList, isIP } from 'node:net'
import { resolve } from 'node:path'
import { BeyondError } from '../errors.ts'
import { type BoxSettings, boxSettings, cdcEnvironment, type Definition, type GivenSettings, parseSettings, type SettingName } from './settings.ts'
import { fromEnvironment } from './settings-source.ts'
import type { TableSelection } from './table-selection.ts'
import type { TuningProfile } from './tuning.ts'

export type BoxConfig = {
  /** Absolute. */
  readonly dataDir: string
  /** True when nobody named the directory: then root may put it where its account can reach it. */
  readonly dataDirIsDefault: boolean
  /** Address for PgBouncer and QUIC; Postgres itself stays on loopback. */
  readonly listen: string
  readonly poolerPort: number
  readonly postgresPort: number
  readonly cdc: CdcConfig | undefined
  /** Logs as one JSON object per line. */
  readonly json: boolean
  /** Folder of postgres, initdb and psql; undefined: look in the usual places. */
  readonly postgresBinDir: string | undefined
  readonly pgbouncer: string | undefined
  /** Whether the machine is the box's, or a box is one of many programs on it. */
  readonly profile: TuningProfile
  /** All settings, as they were parsed. */
  readonly settings: BoxSettings
}

export type CdcConfig = {
  readonly database: string
  readonly tables: TableSelection
  readonly quicPort: number
  /** Settings that the CDC service reads itself. */
  readonly environment: Readonly<Record<string, string>>
}

/** By the names that commander gives to flags. */
export type RawFlags = Readonly<Record<string, string | boolean | undefined>>
type Environment = Readonly<Record<string, string | undefined>>

/** Flags win over settings. Throws BAD_ARGUMENT. */
export function parseBoxConfig(flags: RawFlags, given: GivenSettings, workingDirectory: string, profile: TuningProfile = 'development'): BoxConfig {
  const settings = parseSettings({ ...given, ...fromFlags(flags) })
  checkTogether(settings)
  const { data, database, tables, quicPort, noCdc, tier } = settings
  return {
    dataDir: resolve(workingDirectory, data ?? '.beyond'),
    dataDirIsDefault: data === undefined,
    listen: settings.listen,
    poolerPort: settings.port,
    postgresPort: settings.postgresPort,
    // The publication and the slot of the change stream are a primary's.
    cdc: noCdc || tier !== 'primary' ? undefined : { database, tables, quicPort, environment: cdcEnvironment(settings) },
    json: settings.json,
    postgresBinDir: settings.postgresBinDir,
    pgbouncer: settings.pgbouncer,
    profile,
    settings,
  }
}

/** From flags and environment alone, as developers start a box. */
export function parseLocalConfig(flags: RawFlags, environment: Environment, workingDirectory: string): BoxConfig {
  return parseBoxConfig(flags, fromEnvironment(environment), workingDirectory)
}

function fromFlags(flags: RawFlags): GivenSettings {
  const entries = Object.entries(boxSettings) as [SettingName, Definition<unknown>][]
  return Object.fromEntries(
    entries.flatMap(([name, { env, flag }]) => {
      if (flag === undefined) return []
      const value = name === 'noCdc' ? flags['cdc'] === false || undefined : flags[name]
      return value === undefined || value === false ? [] : [[env, { text: String(value), origin: flag.split(' ')[0] }]]
    }),
  )
}

/** What concerns more than one setting. Throws BAD_ARGUMENT. */
export function checkTogether(settings: BoxSettings): void {
  const { tier, primaryConninfo, walSink, ephemeral, pitrTarget, port, postgresPort } = settings
  const key = (name: SettingName): string => boxSettings[name].env
  if (port === postgresPort) {
    throw bad(`PgBouncer and Postgres can't share port ${port}: give one of them another with --port or --postgres-port.`)
  }
  if (tier === 'replica' && !primaryConninfo) throw bad(`${key('tier')}=replica needs ${key('primaryConninfo')}, the connection to its primary.`)
  const promise = tier !== 'primary' ? 'tier' : primaryConninfo ? 'primaryConninfo' : walSink.length > 0 ? 'walSink' : undefined
  if (ephemeral && promise !== undefined) {
    throw bad(`${key('ephemeral')} and ${key(promise)} exclude each other: a volume that may be lost can't keep what others rely on; remove one of them.`)
  }
  if (pitrTarget && tier !== 'primary') throw bad(`${key('pitrTarget')} is for a primary: a ${tier} follows another's history.`)
}

/** Loopback addresses of both families. */
export function isLoopback(ip: string): boolean {
  const loopback = new BlockList()
  loopback.addSubnet('127.0.0.0', 8, 'ipv4')
  loopback.addAddress('::1', 'ipv6')
  return loopback.check(ip, isIP(ip) === 6 ? 'ipv6' : 'ipv4')
}

/** An address at which this machine reaches what listens on `listen`. */
export function localAddress(listen: string): string {
  if (listen === '0.0.0.0') return '127.0.0.1'
  return listen === '::' ? '::1' : listen
}

const bad = (message: string): BeyondError => new BeyondError('BAD_ARGUMENT', message)

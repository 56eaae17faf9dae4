/** A box that is run by the test itself: its settings are given as text, its steps can be held, its reload called. */
import type { TestContext } from 'node:test'
import pino from 'pino'
import { type BoxSurroundings, type ReadyBox, runBox } from '../../src/manage/box.ts'
import { type BoxConfig, parseBoxConfig } from '../../src/manage/box-config.ts'
import { fromEnvironment } from '../../src/manage/settings-source.ts'
import type { Ports } from './box-process.ts'

export type RunningBox = ReadyBox & {
  /** Every event of its log. */
  readonly events: readonly Record<string, unknown>[]
  readonly stop: () => Promise<void>
}

export type Settings = Record<string, string>

/** Ports, folder and programs of a test, beside what the test says. */
export function testSettings(data: string, ports: Ports, settings: Settings = {}): Settings {
  const programs = Object.fromEntries(['BEYOND_PG_BINDIR', 'BEYOND_PGBOUNCER'].flatMap((key) => (process.env[key] ? [[key, process.env[key]]] : [])))
  return {
    ...(programs as Settings),
    BEYOND_PG_DATA: data,
    BEYOND_PG_PORT: String(ports.pooler),
    BEYOND_PG_POSTGRES_PORT: String(ports.postgres),
    BEYOND_PG_QUIC_PORT: String(ports.quic),
    BEYOND_PG_NO_CDC: '1',
    ...settings,
  }
}

export function testConfig(data: string, ports: Ports, settings: Settings = {}): BoxConfig {
  return parseBoxConfig({}, fromEnvironment(testSettings(data, ports, settings)), '/')
}

/** Resolves when it is ready; `t` stops it when the test hasn't. */
export async function runTestBox(t: TestContext, config: BoxConfig, more: Partial<BoxSurroundings> = {}): Promise<RunningBox> {
  const stop = new AbortController()
  const events: Record<string, unknown>[] = []
  const { promise: ready, resolve } = Promise.withResolvers<ReadyBox>()
  const end = runBox(config, {
    openLog: () => pino({ base: null }, { write: (line: string) => void events.push(JSON.parse(line) as Record<string, unknown>) }),
    stop: stop.signal,
    hurry: new AbortController().signal,
    handOver: new AbortController().signal,
    environment: process.env,
    onReady: resolve,
    ...more,
  })
  end.catch(() => undefined)
  const stopped = async (): Promise<void> => {
    stop.abort()
    await end
  }
  t.after(() => stopped().catch(() => undefined))
  return { ...(await Promise.race([ready, end.then(() => Promise.reject(new Error('it ended')))])), events, stop: stopped }
}

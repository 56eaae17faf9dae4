/** Starts that are refused, and what makes them possible again. */
import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { BoxProcess, freePorts, startArguments, temporaryFolder } from './box-process.ts'
import { start } from './sink-box.ts'
import { startSinks } from './sink-processes.ts'

test('without its sinks, without the setting, without the disk of its only sink: nothing is opened', async (t) => {
  const folder = temporaryFolder(t)
  const data = join(folder, 'box')
  const ports = await freePorts()
  const sinks = await startSinks(t, folder, 1)
  const [sink] = sinks.all
  const refused = async (environment: Record<string, string>, sentence: RegExp): Promise<void> => {
    const box = new BoxProcess(startArguments(data, ports, '--no-cdc'), { env: environment })
    assert.notEqual((await box.ended).code, 0)
    assert.match(box.stderr, sentence)
  }
  const { box } = await start(data, ports, sinks)
  await box.stop()
  await refused({}, /The commits of this volume are held by sink1, and BEYOND_PG_WAL_SINK is empty: set it again/)
  await sink.kill()
  await refused(sinks.environment, /0 of 1 sinks can be read, and 1 are needed .* bring back sink1 \(https/)
  rmSync(sink.data, { recursive: true })
  await sink.start()
  await refused(sinks.environment, /0 of 1 sinks can be read/)
})

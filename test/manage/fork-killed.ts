/** A fork that is cut off: DATA NAME MOMENT. With `after:MS` that long after it has begun. */
import { setTimeout as sleep } from 'node:timers/promises'
import pino from 'pino'
import { parseLocalConfig } from '../../src/manage/box-config.ts'
import { makeFork } from '../../src/manage/fork.ts'

const [data, name, moment] = process.argv.slice(2)
const die = (): void => void process.kill(process.pid, 'SIGKILL')
const [, ms] = /^after:(\d+)$/.exec(moment) ?? []
if (ms !== undefined) setTimeout(die, Number(ms))
await makeFork({
  name,
  at: undefined,
  durable: false,
  config: parseLocalConfig({ data }, process.env, process.cwd()),
  environment: process.env,
  logger: pino({ level: 'silent' }),
  signal: new AbortController().signal,
  onMoment: async (now) => {
    if (now !== moment) return
    die()
    await sleep(10_000)
  },
})

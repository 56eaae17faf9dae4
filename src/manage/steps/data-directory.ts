/** The first steps: the volume, the directory on it, the lock that makes it ours, and what an earlier start left running. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, relative } from 'node:path'
import { lockFile } from '../../directory-lock.ts'
import { BeyondError } from '../../errors.ts'
import { readRecord, writeRecord } from '../child-process.ts'
import { lookAtLayout, openLayout } from '../layout.ts'
import { Leftovers } from '../leftovers.ts'
import { isAlive } from '../process-identity.ts'
import { nothing, type Step, will } from './step.ts'

/** A volume that did not mount looks like an empty directory: nothing may be made in its place. */
export const volume: Step = {
  name: 'volume',
  look: ({ config }) => {
    const { volumeMount } = config.settings
    if (volumeMount === undefined) return nothing('none is expected')
    if (!isMountPoint(volumeMount)) {
      throw new BeyondError('DATA_DIRECTORY', `The volume that must be mounted on ${volumeMount} is not: mount it and start again; nothing was made.`, {
        facts: { path: volumeMount },
      })
    }
    if (relative(volumeMount, config.dataDir).startsWith('..')) {
      throw new BeyondError('BAD_ARGUMENT', `The data directory ${config.dataDir} does not lie on the volume ${volumeMount}: name one that does with BEYOND_PG_DATA.`)
    }
    return nothing(`mounted on ${volumeMount}`)
  },
}

export const dataDirectory: Step = {
  name: 'data directory',
  look: (boot) => {
    const { config } = boot
    const { layout, missing } = lookAtLayout(config.dataDir)
    boot.layout = layout
    const open = (): string => {
      const explanations: string[] = []
      boot.layout = openLayout(config.dataDir, { isDefault: config.dataDirIsDefault, explain: (text) => explanations.push(text) })
      for (const text of explanations) boot.logger.warn(text)
      return missing.length === 0 ? `${layout.root} is ours` : `made ${missing.join(', ')}`
    }
    if (missing.length === 0) {
      open() // checks what only the account itself can tell; changes nothing
      return nothing(`${layout.root} is ours, and complete`)
    }
    return will(`make ${missing.join(', ')}`, open)
  },
}

export const lock: Step = {
  name: 'lock',
  look: (boot) => {
    const holder = readRecord(boot.layout.run, 'supervisor')
    const isHeld = holder !== undefined && holder.pid !== process.pid && isAlive(holder)
    return will(isHeld ? `be refused: process ${holder.pid} runs this box` : `lock ${boot.layout.lock}`, () => {
      const { layout } = boot
      const sentence = `Another box${holder ? ` (process ${holder.pid})` : ''} runs on ${layout.root}: stop it first, or choose another directory with --data.`
      boot.onLocked(lockFile(layout.lock, sentence))
      writeRecord(layout.run, 'supervisor', process.pid)
      return `${layout.root} is locked`
    })
  },
}

export const earlierProcesses: Step = {
  name: 'earlier processes',
  look: (boot) => {
    const running = recordedProcesses(boot.layout.run)
    boot.recorded = running
    const says = running.length === 0 ? 'look for what no record tells of' : `take over or end ${running.join(', ')}`
    return will(says, async () => {
      boot.leftovers = await Leftovers.find(boot.layout, boot.logger, boot.stop)
      const { names } = boot.leftovers
      return names.length === 0 ? 'none runs' : `found running: ${names.join(', ')}`
    })
  },
}

function recordedProcesses(run: string): readonly string[] {
  try {
    const names = readdirSync(run).flatMap((file) => (file.endsWith('.json') ? [file.slice(0, -5)] : []))
    return names.filter((name) => {
      const record = name === 'supervisor' ? undefined : readRecord(run, name)
      return record && isAlive(record)
    })
  } catch {
    return [] // no folder yet, or no business of ours
  }
}

/** Mount points as the kernel lists them; a bind mount of the same file system counts. Source: proc_pid_mountinfo(5), field 5. */
function isMountPoint(path: string): boolean {
  const wanted = path === '/' ? path : path.replace(/\/+$/, '')
  const octal = (text: string): string => text.replaceAll(/\\(\d{3})/g, (_match, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)))
  return wanted === dirname(wanted) || readFileSync('/proc/self/mountinfo', 'utf8').split('\n').some((line) => octal(line.split(' ')[4] ?? '') === wanted)
}

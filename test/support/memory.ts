import { readFileSync } from 'node:fs'

/** Resident memory of a process, bytes. */
export function residentBytes(pid: number): number {
  const match = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
  if (!match) throw new Error(`process ${pid} has no memory any more`)
  return Number(match[1]) * 1024
}

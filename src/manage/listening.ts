/** Whether a process listens on a UDP port, from the outside. Source: proc_pid_net(5), proc_pid_fd(5). */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'

/** Inodes of the sockets that are bound to this port, from the text of /proc/net/udp or udp6. Pure. */
export function inodesOfPort(table: string, port: number): readonly string[] {
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, '0')}`
  return table
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields[1]?.endsWith(suffix))
    .map((fields) => fields[9])
}

export function holdsUdpPort(pid: number, port: number): boolean {
  const inodes = new Set(['udp', 'udp6'].flatMap((name) => inodesOfPort(read(`/proc/${pid}/net/${name}`), port)))
  return inodes.size > 0 && descriptorsOf(pid).some((target) => inodes.has(/^socket:\[(\d+)\]$/.exec(target)?.[1] ?? ''))
}

function descriptorsOf(pid: number): readonly string[] {
  const folder = `/proc/${pid}/fd`
  try {
    return readdirSync(folder).flatMap((fd) => {
      try {
        return [readlinkSync(`${folder}/${fd}`)]
      } catch {
        return [] // closed meanwhile
      }
    })
  } catch {
    return []
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

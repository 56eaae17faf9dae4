/** Passwords of the box's own roles, and certificates. */
import { existsSync } from 'node:fs'
import { hostname } from 'node:os'
import { localAddress } from '../box-config.ts'
import { cdcAccount } from '../box-children.ts'
import { ensurePasswords, passwordFile, pgpassFile, ROLES } from '../secrets.ts'
import { ensureTlsFiles, tlsFilesToMake } from '../tls-files.ts'
import { type Boot, type Step, will } from './step.ts'

export const passwords: Step = {
  name: 'passwords',
  look: (boot) => {
    const { secrets, account, accountOwner } = boot.layout
    const ensure = (): void => {
      boot.passwords = ensurePasswords(secrets, cdcAccount(account) ? accountOwner : undefined)
    }
    const missing = [...ROLES.map((role) => passwordFile(secrets, role)), pgpassFile(secrets)].filter((path) => !existsSync(path))
    if (missing.length > 0) return will(`make ${missing.join(', ')}`, ensure)
    return will('read them, and see that their files are their owners’', () => {
      ensure()
      return 'all are there'
    })
  },
}

export const certificates: Step = {
  name: 'certificates',
  look: (boot) => {
    const options = tlsOptions(boot)
    const wanted = tlsFilesToMake(options)
    const says = wanted.length === 0 ? 'all are valid; see that keys are their owners’' : `make ${wanted.join(', ')}`
    return will(says, async () => {
      const made = await ensureTlsFiles(options)
      if (made.length === 0) return 'all are valid'
      boot.logger.info({ made, path: boot.layout.tls }, 'made certificates')
      return `made ${made.join(', ')}`
    })
  },
}

const CHECK_MS = 12 * 3_600_000

/** A box may run for longer than its certificates: they are looked at twice a day. */
export const renewal: Step = {
  name: 'certificate renewal',
  look: (boot) =>
    will('look at the certificates twice a day', () => {
      const look = (): void => {
        renewCertificates(boot).catch((error: Error) => boot.logger.error({ err: { message: error.message } }, 'could not renew the certificates'))
      }
      const timer = setInterval(look, CHECK_MS).unref()
      boot.defer(async () => clearInterval(timer))
      return 'looking twice a day'
    }),
}

/** Makes what comes near its end, and has it used: by PgBouncer for new connections, by the change stream after a restart of it. */
export async function renewCertificates({ config, layout, logger, children }: Boot): Promise<readonly string[]> {
  const made = await ensureTlsFiles(tlsOptions({ config, layout }))
  if (made.length === 0) return made
  logger.info({ made, path: layout.tls }, 'renewed certificates')
  if (made.includes('server')) {
    children.pooler?.reload()
    await children.cdc?.restart() // it reads them at its start only; its subscribers come back and go on where they were
  }
  return made
}

/** Under which names the box is reached, and who reads the server's key. */
export function tlsOptions({ config, layout }: Pick<Boot, 'config' | 'layout'>): Parameters<typeof ensureTlsFiles>[0] {
  const host = hostname()
  const names = ['localhost', '127.0.0.1', '::1', localAddress(config.listen), ...(/^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/i.test(host) ? [host] : [])]
  return { paths: layout.tlsFiles, serverNames: [...new Set(names)], serverOwner: layout.accountOwner, now: new Date() }
}

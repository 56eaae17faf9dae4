/** box.json: written when all of it serves. */
import { type BoxConfig, localAddress } from '../box-config.ts'
import { type BoxFile, writeBoxFile } from '../box-file.ts'
import type { Layout } from '../layout.ts'
import { type Step, will } from './step.ts'

export const boxFile: Step = {
  name: 'box.json',
  look: (boot) =>
    will(`write ${boot.layout.boxFile}`, () => {
      boot.box = describeBox(boot.config, boot.layout, boot.problems)
      writeBoxFile(boot.layout.boxFile, boot.box)
      return `wrote ${boot.layout.boxFile}`
    }),
}

export function describeBox(config: BoxConfig, layout: Layout, problems: readonly string[]): BoxFile {
  const host = localAddress(config.listen)
  return {
    version: 1,
    tier: config.settings.tier,
    postgres: { socketDir: layout.sockets, port: config.postgresPort },
    pooler: { host, port: config.poolerPort },
    quic: config.cdc ? { host, port: config.cdc.quicPort } : null,
    tls: { ca: layout.tlsFiles.ca, cert: layout.tlsFiles.clientCertificate, key: layout.tlsFiles.clientKey },
    database: config.cdc?.database ?? 'postgres',
    secrets: layout.secrets,
    problems,
  }
}

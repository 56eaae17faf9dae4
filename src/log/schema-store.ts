/**
 * The Avro schemas of every relation version in the log: `schemas/<fingerprint>.avsc`, one file each.
 * A schema is durable before the first block that needs it.
 */
import { mkdir, readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { BeyondError } from '../errors.ts'
import { writeFileDurably } from './durable-file.ts'

export class SchemaStore {
  readonly #directory: string
  readonly #schemas: Map<bigint, string>

  private constructor(directory: string, schemas: Map<bigint, string>) {
    this.#directory = directory
    this.#schemas = schemas
  }

  static async open(logDirectory: string): Promise<SchemaStore> {
    const directory = join(logDirectory, 'schemas')
    await mkdir(directory, { recursive: true, mode: 0o700 })
    const schemas = new Map<bigint, string>()
    for (const name of await readdir(directory)) {
      const match = /^([0-9a-f]{16})\.avsc$/.exec(name)
      if (match) schemas.set(BigInt(`0x${match[1]}`), await readFile(join(directory, name), 'utf8'))
    }
    return new SchemaStore(directory, schemas)
  }

  has(fingerprint: bigint): boolean {
    return this.#schemas.has(fingerprint)
  }

  /** The schema as JSON text. One that is missing means that the log's folder was damaged. */
  get(fingerprint: bigint): string {
    const schema = this.#schemas.get(fingerprint)
    if (schema === undefined)
      throw new BeyondError('LOG_CORRUPT', `The schema ${fingerprint.toString(16)} is missing in ${this.#directory}: restore the folder of the change log.`)
    return schema
  }

  async add(fingerprint: bigint, schema: string): Promise<void> {
    if (this.#schemas.has(fingerprint)) return
    await writeFileDurably(join(this.#directory, `${fingerprint.toString(16).padStart(16, '0')}.avsc`), schema)
    this.#schemas.set(fingerprint, schema)
  }
}

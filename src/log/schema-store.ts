/**
 * The Avro schemas of every relation version in the log: `schemas/<fingerprint>.avsc`, one file each.
 * A schema is durable before the first block that needs it.
 */
import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { BeyondError, fromSystem } from '../errors.ts'
import { makeDirectoryDurably, writeFileDurably } from '../durable-file.ts'

export class SchemaStore {
  readonly #directory: string
  readonly #schemas: Map<bigint, string>
  /** One after the other: two writes of the same schema would use the same file beside it. */
  #adding: Promise<void> = Promise.resolve()

  private constructor(directory: string, schemas: Map<bigint, string>) {
    this.#directory = directory
    this.#schemas = schemas
  }

  static async open(logDirectory: string): Promise<SchemaStore> {
    const directory = join(logDirectory, 'schemas')
    await makeDirectoryDurably(directory)
    const schemas = new Map<bigint, string>()
    for (const name of await readdir(directory)) {
      const match = /^([0-9a-f]{16})\.avsc$/.exec(name)
      if (!match) continue
      const path = join(directory, name)
      const schema = await readFile(path, 'utf8')
      try {
        JSON.parse(schema)
      } catch (cause) {
        throw new BeyondError('LOG_CORRUPT', `${path} is not a schema: restore the folder of the change log.`, { cause, facts: { path } })
      }
      schemas.set(BigInt(`0x${match[1]}`), schema)
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

  /** Resolves when the schema is durable. DISK_FULL, NO_PERMISSION or INTERNAL. */
  add(fingerprint: bigint, schema: string): Promise<void> {
    const added = this.#adding.then(() => this.#write(fingerprint, schema))
    this.#adding = added.catch(() => {})
    return added
  }

  async #write(fingerprint: bigint, schema: string): Promise<void> {
    if (this.#schemas.has(fingerprint)) return
    try {
      await writeFileDurably(join(this.#directory, `${fingerprint.toString(16).padStart(16, '0')}.avsc`), schema)
    } catch (error) {
      throw fromSystem(error, 'writing a schema of the change log')
    }
    this.#schemas.set(fingerprint, schema)
  }
}

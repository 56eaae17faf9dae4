/**
 * pgoutput messages in, protocol frames out: what the change log stores and what goes on the wire, encoded once.
 * Owns the chain hash and the cutting into batches; knows nothing of connections and files.
 *
 * The output buffer holds, before the first frame of a batch, the 32 chain bytes of the transaction before it. Since a Commit frame
 * ends with its chain bytes, `chain(n-1) || frames(n)` is contiguous for each transaction, and is hashed in one call.
 */
import { createHash, hash, type Hash } from 'node:crypto'
import { envelopes } from '../transport/envelopes.ts'
import { FRAME_HEADER_BYTES, frameType, SINGLE_OBJECT_HEADER_BYTES } from '../transport/frame.ts'
import { LSN_ZERO, toLsn, type Lsn } from '../wal/lsn.ts'
import { AvroWriter, putInt64, putLong } from './avro-writer.ts'
import { malformed } from './malformed.ts'
import { decodeMessage, messageType, readLsn, readTime, tupleTag, unexpected, type Message, type Truncate } from './pgoutput-message.ts'
import { RelationCache, type RelationVersion } from './relation.ts'
import { SLACK_PER_COLUMN, transcodeTuple } from './tuple-transcoder.ts'

export type EncodedTransaction = {
  /** Commit LSN: the position of the transaction. Of a logical message outside of a transaction: its own LSN less one. */
  readonly lsn: Lsn
  /** Where its last record ends: what may be confirmed to the slot once the transaction is durable. */
  readonly endLsn: Lsn
  /** 0: a logical message outside of a transaction. */
  readonly xid: number
  /** Commit time, microseconds since 1970; 0 for a logical message outside of a transaction. */
  readonly time: bigint
  readonly changes: number
  /** After it. A view into `bytes` of the batch: copy it to keep it longer. */
  readonly chain: Buffer
  /** Its frames within `bytes` of the batch. A transaction that began in an earlier batch starts at 0. */
  readonly offset: number
  readonly length: number
}

export type EncodedBatch = {
  /** Whole frames, one after another. May begin and end within a transaction. */
  readonly bytes: Buffer
  /** Those whose Commit is in this batch. */
  readonly transactions: readonly EncodedTransaction[]
  /** Ends inside a transaction. */
  readonly open: boolean
  /** Of all Change frames in `bytes`; unsigned. */
  readonly fingerprints: readonly bigint[]
  /** Changes, truncates and messages in `bytes`. */
  readonly changes: number
}

export type NewSchema = { readonly fingerprint: bigint; readonly schema: string }

const CHAIN_BYTES = 32
const MIN_CAPACITY = 64 * 1024
const MAX_CAPACITY = 1024 * 1024
/** Room for the numbers of a Begin or Commit frame, and for header, operation and branches of a Change frame. */
const FRAME_SLACK = 128
const operation = { insert: 0, update: 2, delete: 4 } as const
/** Stands for the chain until `take` knows the buffer that the view is of. */
const NO_CHAIN = Buffer.alloc(0)
const presence = { absent: 0, present: 2 } as const

export class ChangeEncoder {
  readonly #relations = new RelationCache()
  #writer = new AvroWriter(MIN_CAPACITY)
  #newSchemas: NewSchema[] = []

  // The batch in the making.
  #batch = 0
  #transactions: (Omit<EncodedTransaction, 'chain'> & { chain: Buffer })[] = []
  #fingerprints: bigint[] = []
  #batchChanges = 0

  // The open transaction; `#inside` says whether there is one.
  #inside = false
  #lsn: Lsn = LSN_ZERO
  #xid = 0
  #time = 0n
  #changes = 0
  /** Offset of its first byte in the buffer. */
  #start = 0
  /** Has hashed what went out with earlier batches; undefined while the whole transaction is in the buffer. */
  #hasher: Hash | undefined

  /** `chain`: the 32 bytes of the chain hash so far. */
  constructor(chain: Uint8Array) {
    if (chain.length !== CHAIN_BYTES) throw new RangeError(`A chain hash has ${CHAIN_BYTES} bytes, not ${chain.length}.`)
    this.#writer.bytes.set(chain, 0)
    this.#writer.position = CHAIN_BYTES
  }

  get insideTransaction(): boolean {
    return this.#inside
  }

  /** Bytes gathered since the last `take`. */
  get pendingBytes(): number {
    return this.#writer.position - CHAIN_BYTES
  }

  /** Takes one pgoutput message: the payload of XLogData. Throws BAD_REPLICATION_DATA; the encoder is of no use afterwards. */
  push(message: Buffer): void {
    switch (message[0]) {
      case messageType.insert:
        return this.#insert(message)
      case messageType.update:
        return this.#update(message)
      case messageType.delete:
        return this.#delete(message)
      case messageType.begin:
        return this.#begin(message)
      case messageType.commit:
        return this.#commit(message)
      default:
        return this.#pushSeldom(message)
    }
  }

  /** All that was pushed since the last `take`, undefined if nothing. The buffer is the caller's: it is not written again. */
  take(): EncodedBatch | undefined {
    const writer = this.#writer
    const end = writer.position
    if (end === CHAIN_BYTES) return undefined
    if (this.#inside) {
      const unhashed = writer.bytes.subarray(this.#unhashed(), end)
      this.#hasher = (this.#hasher ?? createHash('sha256')).update(unhashed)
    }
    const filled = writer.bytes
    const large = end > filled.length / 4
    // A small batch would hold a large buffer for as long as someone keeps it: it gets a buffer of its own size.
    const bytes = large ? filled.subarray(CHAIN_BYTES, end) : Buffer.allocUnsafeSlow(end - CHAIN_BYTES)
    if (!large) filled.copy(bytes, 0, CHAIN_BYTES, end)
    if (large || filled.length > MAX_CAPACITY) this.#writer = new AvroWriter(capacityAfter(end))
    // Inside a transaction the hasher has the chain bytes already, and what stands here is never read.
    filled.copy(this.#writer.bytes, 0, end - CHAIN_BYTES, end)
    this.#writer.position = CHAIN_BYTES
    this.#start = CHAIN_BYTES

    for (const transaction of this.#transactions) {
      const after = transaction.offset + transaction.length
      transaction.chain = bytes.subarray(after - CHAIN_BYTES, after)
    }
    const batch = {
      bytes,
      transactions: this.#transactions,
      open: this.#inside,
      fingerprints: this.#fingerprints,
      changes: this.#batchChanges,
    }
    this.#transactions = []
    this.#fingerprints = []
    this.#batchChanges = 0
    this.#batch++
    return batch
  }

  /** Relation versions that are new since the last call: to be stored durably before the bytes that use them. */
  takeSchemas(): NewSchema[] {
    const schemas = this.#newSchemas
    this.#newSchemas = []
    return schemas
  }

  #begin(message: Buffer): void {
    if (message.length !== 21) malformed(`A Begin message has ${message.length} bytes instead of 21.`)
    if (this.#inside) malformed('A transaction begins inside another one.')
    this.#open(readLsn(message, 1), message.readUInt32BE(17), readTime(message, 9))
  }

  #open(lsn: Lsn, xid: number, time: bigint): void {
    this.#inside = true
    this.#lsn = lsn
    this.#xid = xid
    this.#time = time
    this.#changes = 0
    const frame = this.#frame(frameType.begin, FRAME_SLACK)
    this.#start = frame
    this.#bigLong(lsn)
    this.#bigLong(time)
    this.#smallLong(xid)
    this.#endFrame(frame)
  }

  #commit(message: Buffer): void {
    if (message.length !== 26) malformed(`A Commit message has ${message.length} bytes instead of 26.`)
    if (!this.#inside) malformed('A transaction commits that has not begun.')
    if (readLsn(message, 2) !== this.#lsn) malformed('A transaction commits at another LSN than its Begin has said.')
    this.#close(readLsn(message, 10))
  }

  #close(endLsn: Lsn): void {
    const frame = this.#frame(frameType.commit, FRAME_SLACK)
    this.#bigLong(this.#lsn)
    this.#bigLong(endLsn)
    this.#smallLong(this.#changes)
    const writer = this.#writer
    const end = writer.position
    writer.position = end + CHAIN_BYTES
    this.#endFrame(frame)
    const hashed = writer.bytes.subarray(this.#unhashed(), end)
    // As text: a digest as a Buffer costs twice the time.
    const digest = this.#hasher === undefined ? hash('sha256', hashed, 'latin1') : this.#hasher.update(hashed).digest('latin1')
    writer.bytes.write(digest, end, CHAIN_BYTES, 'latin1')
    this.#transactions.push({
      lsn: this.#lsn,
      endLsn,
      xid: this.#xid,
      time: this.#time,
      changes: this.#changes,
      chain: NO_CHAIN,
      offset: this.#start - CHAIN_BYTES,
      length: writer.position - this.#start,
    })
    this.#inside = false
    this.#hasher = undefined
  }

  /** Offset of the first byte of the open transaction that no hasher has seen: its chain bytes go first. */
  #unhashed(): number {
    return this.#hasher === undefined ? this.#start - CHAIN_BYTES : this.#start
  }

  #insert(message: Buffer): void {
    const relation = this.#relationOf(message)
    const writer = this.#writer
    const frame = this.#change(message, relation, operation.insert)
    writer.bytes[writer.position++] = presence.absent
    this.#end(message, frame, this.#newTuple(message, 5, relation, -1))
  }

  #update(message: Buffer): void {
    const relation = this.#relationOf(message)
    const writer = this.#writer
    const frame = this.#change(message, relation, operation.update)
    if (message[5] === tupleTag.new) {
      writer.bytes[writer.position++] = presence.absent
      return this.#end(message, frame, this.#newTuple(message, 5, relation, -1))
    }
    const after = this.#oldTuple(message, relation)
    return this.#end(message, frame, this.#newTuple(message, after, relation, relation.full ? 6 : -1))
  }

  #delete(message: Buffer): void {
    const relation = this.#relationOf(message)
    const writer = this.#writer
    const frame = this.#change(message, relation, operation.delete)
    const after = this.#oldTuple(message, relation)
    writer.bytes[writer.position++] = presence.absent
    this.#end(message, frame, after)
  }

  #relationOf(message: Buffer): RelationVersion {
    if (!this.#inside) malformed('A change stands outside of a transaction.')
    if (message.length < 8) malformed('A change ends too early.')
    const oid = (message[1] << 24) | (message[2] << 16) | (message[3] << 8) | message[4]
    const relation = this.#relations.get(oid)
    return relation ?? malformed(`A change of relation ${oid >>> 0} came before its RELATION message.`)
  }

  /** Begins a Change frame, up to and with the operation; answers the offset of the frame. */
  #change(message: Buffer, relation: RelationVersion, op: number): number {
    if (relation.usedInBatch !== this.#batch) {
      relation.usedInBatch = this.#batch
      this.#fingerprints.push(relation.fingerprint)
    }
    const frame = this.#frame(frameType.change, message.length + 2 * SLACK_PER_COLUMN * relation.rowKinds.length + FRAME_SLACK)
    const writer = this.#writer
    const out = writer.bytes
    const header = relation.singleObjectHeader
    let to = writer.position
    for (let byte = 0; byte < SINGLE_OBJECT_HEADER_BYTES; byte++) out[to + byte] = header[byte]
    to += SINGLE_OBJECT_HEADER_BYTES
    out[to] = op
    writer.position = to + 1
    return frame
  }

  /** The old tuple, whose tag is the sixth byte of the message; answers the offset after it. */
  #oldTuple(message: Buffer, relation: RelationVersion): number {
    const tag = message[5]
    if (tag !== (relation.full ? tupleTag.old : tupleTag.key)) malformed(`An old tuple of kind ${tag} does not fit the replica identity.`)
    const writer = this.#writer
    writer.bytes[writer.position++] = presence.present
    return transcodeTuple(message, 6, relation.full ? relation.rowKinds : relation.keyKinds, writer, -1)
  }

  #newTuple(message: Buffer, at: number, relation: RelationVersion, old: number): number {
    if (message[at] !== tupleTag.new) malformed('A change holds no new tuple where one is due.')
    const writer = this.#writer
    writer.bytes[writer.position++] = presence.present
    return transcodeTuple(message, at + 1, relation.rowKinds, writer, old)
  }

  #end(message: Buffer, frame: number, at: number): void {
    if (at !== message.length) malformed(`A change has ${message.length - at} bytes too many.`)
    this.#endFrame(frame)
    this.#changes++
    this.#batchChanges++
  }

  #pushSeldom(message: Buffer): void {
    const decoded = decodeMessage(message)
    switch (decoded.kind) {
      case 'relation': {
        const version = this.#relations.onRelation(decoded)
        if (version) this.#newSchemas.push({ fingerprint: version.fingerprint, schema: version.schema })
        return
      }
      case 'type':
        return this.#relations.onType(decoded)
      case 'origin':
        return // Where else the transaction was committed before: not part of the protocol.
      case 'truncate':
        return this.#truncate(decoded)
      case 'message':
        return this.#message(decoded)
      default:
        return unexpected(message)
    }
  }

  #truncate({ relationOids, cascade, restartIdentity }: Truncate): void {
    if (!this.#inside) malformed('A TRUNCATE stands outside of a transaction.')
    const relations = relationOids.map((oid) => {
      const relation = this.#relations.get(oid | 0) ?? malformed(`A TRUNCATE of relation ${oid} came before its RELATION message.`)
      return { schema: relation.descriptor.schema, table: relation.descriptor.table }
    })
    this.#envelope(frameType.truncate, envelopes.truncate.encode({ relations, cascade, restartIdentity }))
  }

  #message({ lsn, transactional, prefix, content }: Message): void {
    if (transactional !== this.#inside) malformed('A logical message stands on the wrong side of a transaction.')
    // A message that is no part of a transaction is one of its own. Its LSN is the end of its record, where the commit record of
    // another transaction may begin: a position that only this one has is the last byte of the record.
    if (!transactional) this.#open(toLsn(lsn - 1n), 0, 0n)
    this.#envelope(frameType.message, envelopes.message.encode({ lsn, transactional, prefix, content }))
    if (!transactional) this.#close(lsn)
  }

  #envelope(type: number, body: Buffer): void {
    const frame = this.#frame(type, body.length + FRAME_SLACK)
    body.copy(this.#writer.bytes, this.#writer.position)
    this.#writer.position += body.length
    this.#endFrame(frame)
    this.#changes++
    this.#batchChanges++
  }

  /** Begins a frame of at most `room` bytes; answers its offset, for `#endFrame`. */
  #frame(type: number, room: number): number {
    const writer = this.#writer
    writer.ensure(room)
    const frame = writer.position
    writer.bytes[frame + 4] = type
    writer.position = frame + FRAME_HEADER_BYTES
    return frame
  }

  /** Patches the length in: all that follows it. */
  #endFrame(frame: number): void {
    const { bytes, position } = this.#writer
    const length = position - frame - 4
    if (length > 0xffffffff) malformed('A change is longer than a frame can be.')
    bytes[frame] = length >>> 24
    bytes[frame + 1] = length >>> 16
    bytes[frame + 2] = length >>> 8
    bytes[frame + 3] = length
  }

  #smallLong(value: number): void {
    this.#writer.position = putLong(this.#writer.bytes, this.#writer.position, value)
  }

  #bigLong(value: bigint): void {
    const { bytes, position } = this.#writer
    const exact = Number(value)
    this.#writer.position =
      Math.abs(exact) < 2 ** 52
        ? putLong(bytes, position, exact)
        : putInt64(bytes, position, Number(BigInt.asIntN(32, value >> 32n)), Number(BigInt.asIntN(32, value)))
  }
}

/** The next batch will need about what the last one did: a power of two with some room. */
const capacityAfter = (bytes: number): number => Math.min(MAX_CAPACITY, Math.max(MIN_CAPACITY, 2 ** Math.ceil(Math.log2(bytes * 1.25))))

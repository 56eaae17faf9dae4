/**
 * Drives OpenSSL's QUIC engines over one UDP socket.
 *
 * `Driver` owns the socket and its watch in the event loop. `Engine` is what one SSL_handle_events drives: a dialed connection, or a
 * listener with its accepted connections; it owns its timer and the table of objects that are polled. What events mean is
 * left to the objects.
 *
 * A turn of an engine: SSL_handle_events (takes in datagrams, runs timers, sends), one SSL_poll over all objects, their callbacks,
 * and once more if the callbacks have read or written. All application callbacks come from here, so none runs within a call of
 * the application's. A turn is bounded; while there is more to do, turns follow each other through setImmediate, so
 * that the rest of the process has its share.
 *
 * Event handling is explicit on every connection: otherwise each SSL_read_ex and SSL_write_ex ticks the whole engine.
 */
import * as ffi from './openssl-ffi.ts'
import type { UdpSocket } from './openssl-socket.ts'

/** How often one turn polls, dispatches and sends before it lets the event loop go on. */
const ROUNDS = 4
/** A deadline that has passed and yet nothing comes of it: after so many turns in a row, wait for the timer. */
const IDLE_TURNS = 8
const LONGEST_TIMER_MS = 60_000

/** What is polled. `onEvents` gets the pollEvent bits that are set and wanted. */
export type Polled = { onEvents(events: number): void }

/** What needs a look in every turn for a while: handshakes, closing connections. `deadline` in ms of performance.now(). */
export type Attended = { readonly deadline: number; attend(now: number): void }

export class Driver {
  readonly #socket: UdpSocket
  readonly #onReadable: () => void
  readonly #ready = new Set<Engine>()
  /** Engines that the socket has not taken all from. */
  readonly #writers = new Set<Engine>()
  #watch: ffi.FdWatch | undefined
  #watchesWrites = false
  #watchStopped = false
  #isReadable = false
  #immediate: NodeJS.Immediate | undefined

  /** Takes over the socket. `onReadable` is called at the start of a turn; it wakes the engines that have something to do. */
  constructor(socket: UdpSocket, onReadable: () => void) {
    this.#socket = socket
    this.#onReadable = onReadable
    this.#watch = ffi.watch(socket.fd, { readable: true, writable: false }, this.#onSocket)
  }

  get isOpen(): boolean {
    return this.#watch !== undefined
  }

  wake(engine: Engine): void {
    this.#ready.add(engine)
    this.#schedule()
  }

  /** For `onReadable`: it has left something unread. */
  readAgain(): void {
    this.#isReadable = true
    this.#schedule()
  }

  awaitWrite(engine: Engine, wants: boolean): void {
    if (wants) this.#writers.add(engine)
    else this.#writers.delete(engine)
  }

  /** Closes the socket. Engines must be closed before. */
  close(): void {
    if (this.#watch === undefined) return
    this.#watch.close()
    this.#watch = undefined
    if (this.#immediate !== undefined) clearImmediate(this.#immediate)
    this.#immediate = undefined
    this.#ready.clear()
    this.#socket.close()
  }

  readonly #onSocket = (status: number): void => {
    // An error on the socket (ICMP) stops the watch; OpenSSL meets the error when it reads.
    if (status !== 0) this.#watchStopped = true
    this.#isReadable = true
    for (const engine of this.#writers) this.#ready.add(engine)
    this.#schedule()
  }

  readonly #turn = (): void => {
    this.#immediate = undefined
    if (this.#isReadable) {
      this.#isReadable = false
      this.#onReadable()
    }
    const engines = [...this.#ready]
    this.#ready.clear()
    for (const engine of engines) engine.turn()
    // What OpenSSL leaves in the error queue of this thread would confuse other users of OpenSSL in the process.
    ffi.ERR_clear_error()
    const wantsWrite = this.#writers.size > 0
    if (wantsWrite === this.#watchesWrites && !this.#watchStopped) return
    this.#watchesWrites = wantsWrite
    this.#watchStopped = false
    this.#watch?.start({ readable: true, writable: wantsWrite }, this.#onSocket)
  }

  #schedule(): void {
    if (this.#watch !== undefined) this.#immediate ??= setImmediate(this.#turn)
  }
}

export class Engine {
  readonly table = new PollTable()
  readonly attended = new Set<Attended>()
  readonly #driver: Driver
  #root: ffi.Pointer
  #isOpen = true
  #timer: NodeJS.Timeout | undefined
  #timerAt = Infinity
  /** Something was read, written or closed: acknowledgements, credit or data wait to be sent. */
  #dirty = false
  #inTurn = false
  #idleTurns = 0

  /** `root` is the listener or connection whose SSL_handle_events drives the engine; its owner frees it. */
  constructor(driver: Driver, root: ffi.Pointer) {
    this.#driver = driver
    this.#root = root
  }

  /** Asks for a turn soon, in which what was read or written takes effect on the network. */
  touch(): void {
    this.#dirty = true
    if (!this.#inTurn && this.#isOpen) this.#driver.wake(this)
  }

  /** Drives another object from now on. The caller frees the former. */
  replaceRoot(root: ffi.Pointer): void {
    this.#root = root
    this.touch()
  }

  close(): void {
    this.#isOpen = false
    this.#driver.awaitWrite(this, false)
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  turn(): void {
    if (!this.#isOpen) return
    this.#inTurn = true
    let happened = false
    for (let round = 0; round < ROUNDS && this.#isOpen; round++) {
      this.#dirty = false
      ffi.SSL_handle_events(this.#root)
      if (this.table.poll()) {
        happened = true
        this.table.dispatch()
      }
      if (this.attended.size > 0) {
        const now = performance.now()
        for (const one of this.attended) one.attend(now)
      }
      if (!this.#dirty) break
    }
    this.#inTurn = false
    if (this.#isOpen) this.#settle(happened)
  }

  /** Decides what wakes the engine next: another turn at once, the socket, the timer. */
  #settle(happened: boolean): void {
    const ms = this.#eventTimeoutMs()
    this.#idleTurns = happened ? 0 : this.#idleTurns + 1
    if (this.#dirty || happened || (ms <= 0 && this.#idleTurns < IDLE_TURNS)) this.#driver.wake(this)
    else this.#setTimer(ms)
    this.#driver.awaitWrite(this, ffi.SSL_net_write_desired(this.#root) === 1)
  }

  #eventTimeoutMs(): number {
    ffi.SSL_get_event_timeout(this.#root, timeval, infinite)
    let ms = infinite[0] === 0 ? Number(timeval[0]) * 1000 + Math.ceil(Number(timeval[1]) / 1000) : Infinity
    if (this.attended.size > 0) {
      const now = performance.now()
      for (const { deadline } of this.attended) ms = Math.min(ms, Math.ceil(deadline - now))
    }
    return ms
  }

  /** An earlier timer is left to run: a turn too many costs less than a new timer in every turn. */
  #setTimer(ms: number): void {
    const wait = Math.min(Math.max(ms, 1), LONGEST_TIMER_MS)
    const at = performance.now() + wait
    if (this.#timer !== undefined && this.#timerAt <= at) return
    clearTimeout(this.#timer)
    this.#timerAt = at
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.#driver.wake(this)
    }, wait)
  }
}

/** Scratch memory of calls that return before anyone else can use it. */
const timeval = new BigUint64Array(2)
const infinite = new Uint32Array(2)
const readyCount = new BigUint64Array(1)
const noWait = new BigUint64Array(2)

/**
 * The array of SSL_POLL_ITEM that SSL_poll reads and writes, 32 bytes each: descriptor type (u32 at 0), SSL * (at 8), events
 * wanted (u64 at 16), events found (u64 at 24). An item with a NULL object is skipped by SSL_poll, so slots stay where they are.
 */
export class PollTable {
  #items = new Uint32Array(8 * 64)
  #owners: (Polled | undefined)[] = []
  readonly #free: number[] = []

  add(ssl: ffi.Pointer, events: number, owner: Polled): number {
    const slot = this.#free.pop() ?? this.#owners.length
    if (slot * 8 === this.#items.length) {
      const larger = new Uint32Array(this.#items.length * 2)
      larger.set(this.#items)
      this.#items = larger
    }
    this.#owners[slot] = owner
    const at = slot * 8
    this.#items[at] = ffi.BIO_POLL_DESCRIPTOR_TYPE_SSL
    this.#items[at + 2] = ssl % 2 ** 32
    this.#items[at + 3] = Math.floor(ssl / 2 ** 32)
    this.#items[at + 4] = events
    // A slot that is used again while events are dispatched must not show those of its former owner.
    this.#items[at + 6] = 0
    return slot
  }

  remove(slot: number): void {
    if (this.#owners[slot] === undefined) return
    this.#owners[slot] = undefined
    // The type stays: SSL_poll skips an item without object, but gives up at one of another type, and with it on all after it.
    this.#items.fill(0, slot * 8 + 1, slot * 8 + 8)
    this.#free.push(slot)
  }

  want(slot: number, events: number): void {
    this.#items[slot * 8 + 4] = events
  }

  /** One call for all objects. True if any has an event. */
  poll(): boolean {
    if (this.#owners.length === this.#free.length) return false
    ffi.SSL_poll(this.#items, this.#owners.length, 32, noWait, ffi.SSL_POLL_FLAG_NO_HANDLE_EVENTS, readyCount)
    return readyCount[0] !== 0n
  }

  dispatch(): void {
    const count = this.#owners.length
    for (let slot = 0; slot < count; slot++) {
      const found = this.#items[slot * 8 + 6]!
      if (found !== 0) this.#owners[slot]?.onEvents(found)
    }
  }
}

/**
 * Runs a callback of the application. What it throws is a fault of the application's and surfaces as an uncaught exception, but
 * not here: the turn goes on, the objects of OpenSSL stay in order.
 */
export function callOut(callback: () => void): void {
  try {
    callback()
  } catch (error) {
    queueMicrotask(() => {
      throw error
    })
  }
}

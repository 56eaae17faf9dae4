/**
 * How fast a sink serves segments, beside nginx; and how fast restore_command gets them, beside curl and cp.
 *
 *     node bench/sink-serving.ts [--segments N] [--repeat N] [--only serving|restore]
 *
 * Needs nginx and curl. All of it runs over loopback on this machine, with mutual TLS 1.3; what is compared takes turns.
 */
import { execFile, execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, renameSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { restoreCommand } from '../src/sink/fetch-command.ts'
import { readyFolder } from '../src/sink/fetch-daemon.ts'
import { createAuthority } from '../test/support/certificates.ts'
import { Random } from '../test/support/random.ts'
import { fakeSegment } from '../test/sink/fake-wal.ts'
import { cpuSeconds } from './processes.ts'

const SEGMENT_BYTES = 16 * 1024 * 1024
const { values } = parseArgs({ options: { segments: { type: 'string', default: '24' }, repeat: { type: 'string', default: '3' }, only: { type: 'string', default: '' } } })
const count = Number(values.segments)
const repeat = Number(values.repeat)

const folder = mkdtempSync(join(tmpdir(), 'sink-serving-'))
const at = (...names: string[]): string => join(folder, ...names)
const segmentName = (i: number): string => `0000000100000000${(i + 1).toString(16).toUpperCase().padStart(8, '0')}`
const children: ChildProcess[] = []

/** Compresses to about a third, as WAL often does. */
function bytesOf(number: number): Buffer {
  const segment = fakeSegment(BigInt(number), { segmentBytes: SEGMENT_BYTES, pages: SEGMENT_BYTES / 8192 })
  const noise = new Random(number).bytes(64 * 1024)
  for (let page = 0; page < SEGMENT_BYTES; page += 8192) noise.copy(segment, page + 200, page % noise.length, (page % noise.length) + 2600)
  for (let page = 0; page < SEGMENT_BYTES; page += 8192) segment.writeUInt32LE((page * 2_654_435_761) >>> 0, page + 300)
  return segment
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

async function ready(child: ChildProcess): Promise<ChildProcess> {
  children.push(child)
  await once(child.stdout!, 'data')
  return child
}

async function listening(port: number): Promise<void> {
  for (let i = 0; i < 100; i++) {
    const done = await new Promise((resolve) => execFile('curl', [...tls, '-o', '/dev/null', '-s', `https://127.0.0.1:${port}/v1/status`], (error) => resolve(!error)))
    if (done) return
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error(`nobody listens on ${port}`)
}

const median = (numbers: readonly number[]): number => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]
const tls = ['--cacert', at('ca.crt'), '--cert', at('client.crt'), '--key', at('client.key'), '--http1.1', '-sS', '--fail']

/** One connection, all segments one after another. Seconds. */
function curlAll(url: string, headers: string[] = []): number {
  const started = performance.now()
  execFileSync('curl', [...tls, ...headers, ...Array.from({ length: count }, (_, i) => ['-o', '/dev/null', `${url}/${segmentName(i)}`]).flat()], { stdio: ['ignore', 'ignore', 'inherit'] })
  return (performance.now() - started) / 1000
}

/** As Postgres runs it: through a shell, one after another, each file into place and then away. Seconds per segment. */
async function restoreAll(command: (name: string, destination: string) => string, segments = count): Promise<number> {
  const destination = at('RECOVERYXLOG')
  const started = performance.now()
  for (let i = 0; i < segments; i++) {
    const child = spawn('/bin/sh', ['-c', command(segmentName(i), destination)], { stdio: ['ignore', 'ignore', 'inherit'] })
    const [code] = await once(child, 'exit')
    if (code !== 0) throw new Error(`${segmentName(i)} ended with ${code}`)
    // Postgres reads it, and gives it its name.
    renameSync(destination, at('restored'))
  }
  return (performance.now() - started) / 1000 / segments
}

try {
  const authority = await createAuthority()
  const server = await authority.issue({ name: 'sink', use: 'server', hosts: ['127.0.0.1', 'localhost'] })
  const client = await authority.issue({ name: 'box', use: 'client' })
  for (const [name, text] of Object.entries({ 'ca.crt': authority.cert, 'server.crt': server.cert, 'server.key': server.key, 'client.crt': client.cert, 'client.key': client.key })) writeFileSync(at(name), text)
  mkdirSync(at('plain', 'v1', 'segments'), { recursive: true })
  for (let i = 0; i < count; i++) {
    const bytes = bytesOf(i + 1)
    const file = openSync(at('plain', 'v1', 'segments', segmentName(i)), 'w')
    writeSync(file, bytes)
    closeSync(file)
  }

  const [sinkPort, plainPort, nginxPort] = [await freePort(), await freePort(), await freePort()]
  const serve = (port: number, mode: string): Promise<ChildProcess> =>
    ready(spawn(process.execPath, [join(import.meta.dirname, 'sink-server.ts'), folder, String(port), mode], { stdio: ['ignore', 'pipe', 'inherit'] }))
  const stored = await serve(sinkPort, 'stored')
  const plain = await serve(plainPort, 'plain')
  mkdirSync(at('compressed', 'v1', 'segments'), { recursive: true })
  for (let i = 0; i < count; i++) writeFileSync(at('compressed', 'v1', 'segments', segmentName(i)), readFileSync(at('store', `${segmentName(i)}.zst`)))
  writeFileSync(at('nginx.conf'), `
    ${process.getuid!() === 0 ? 'user root root;' : ''} worker_processes 1; daemon off; pid ${at('nginx.pid')}; error_log stderr error;
    events { worker_connections 64; }
    http {
      access_log off; sendfile on; tcp_nopush on; keepalive_requests 10000;
      client_body_temp_path ${at('t1')}; proxy_temp_path ${at('t2')}; fastcgi_temp_path ${at('t3')}; uwsgi_temp_path ${at('t4')}; scgi_temp_path ${at('t5')};
      server {
        listen 127.0.0.1:${nginxPort} ssl; ssl_protocols TLSv1.3;
        ssl_certificate ${at('server.crt')}; ssl_certificate_key ${at('server.key')}; ssl_client_certificate ${at('ca.crt')}; ssl_verify_client on;
        location /plain/ { alias ${at('plain')}/; } location /compressed/ { alias ${at('compressed')}/; }
        location /v1/status { return 204; }
      }
    }`)
  const nginx = spawn('nginx', ['-p', folder, '-c', at('nginx.conf')], { stdio: ['ignore', 'inherit', 'inherit'] })
  children.push(nginx)
  await listening(nginxPort)

  const served: Record<string, { seconds: number[]; cpu: number[] }> = {}
  const nginxWorker = Number(execFileSync('pgrep', ['-P', String(nginx.pid)]).toString().trim())
  const servers: [string, number, () => number][] = [
    ['nginx, plain file', nginxWorker, () => curlAll(`https://127.0.0.1:${nginxPort}/plain/v1/segments`)],
    ['sink, plain file', plain.pid!, () => curlAll(`https://127.0.0.1:${plainPort}/v1/segments`)],
    ['sink, kept compressed, sent plain', stored.pid!, () => curlAll(`https://127.0.0.1:${sinkPort}/v1/segments`)],
    ['nginx, compressed file', nginxWorker, () => curlAll(`https://127.0.0.1:${nginxPort}/compressed/v1/segments`)],
    ['sink, kept and sent compressed', stored.pid!, () => curlAll(`https://127.0.0.1:${sinkPort}/v1/segments`, ['-H', 'accept-encoding: zstd'])],
  ]
  for (let round = 0; round <= repeat; round++)
    for (const [what, pid, run] of values.only === 'restore' ? [] : servers) {
      const before = cpuSeconds(pid)
      const seconds = run()
      // The first round warms up.
      if (round > 0) {
        const entry = (served[what] ??= { seconds: [], cpu: [] })
        entry.seconds.push(seconds)
        entry.cpu.push(cpuSeconds(pid) - before)
      }
    }
  console.log(`\nServing ${count} segments of 16 MB over one connection to curl; medians of ${repeat}`)
  for (const [what, { seconds, cpu }] of Object.entries(served))
    console.log(`${what.padEnd(36)} ${(count / median(seconds)).toFixed(1).padStart(7)} segments/s ${((count * 16) / median(seconds)).toFixed(0).padStart(6)} MB/s of WAL   CPU ${((median(cpu) * 1000) / count).toFixed(1)} ms per segment`)

  const cli = [process.execPath, join(import.meta.dirname, '../src/beyond-pg-sink.ts')]
  const flags = ['--sink', `https://127.0.0.1:${sinkPort}`, '--ca', at('ca.crt'), '--cert', at('client.crt'), '--key', at('client.key')]
  const rate: Record<string, number[]> = {}
  const fill = (command: string) => (name: string, destination: string): string => command.replaceAll(/%(.)/g, (_, letter: string) => ({ f: name, p: destination })[letter] ?? letter)
  const withFetcher = async (): Promise<number> => {
    const directory = at('fetcher')
    const socket = at('s')
    const fetcher = await ready(spawn(cli[0], [cli[1], 'fetcher', ...flags, '--directory', directory, '--socket', socket], { stdio: ['ignore', 'pipe', 'inherit'] }))
    try {
      return await restoreAll(fill(restoreCommand({ fetch: [...cli, 'fetch', '--socket', socket], readyFolder: readyFolder(directory) })))
    } finally {
      fetcher.kill('SIGTERM')
      await once(fetcher, 'exit')
    }
  }
  const fetchers: [string, () => Promise<number>][] = [
    ['cp from a local folder', () => restoreAll((name, destination) => `cp '${at('plain', 'v1', 'segments', name)}' '${destination}'`)],
    ['curl per segment, from the sink', () => restoreAll((name, destination) => `curl ${tls.join(' ')} -o '${destination}' https://127.0.0.1:${sinkPort}/v1/segments/${name}`)],
    ['curl per segment, from nginx', () => restoreAll((name, destination) => `curl ${tls.join(' ')} -o '${destination}' https://127.0.0.1:${nginxPort}/plain/v1/segments/${name}`)],
    ['fetch per segment, no fetcher', () => restoreAll(fill(restoreCommand({ fetch: [...cli, 'fetch', ...flags] })), Math.min(4, count))],
    ['mv, with the fetcher', withFetcher],
  ]
  for (let round = 0; round < repeat; round++) for (const [what, run] of values.only === 'serving' ? [] : fetchers) (rate[what] ??= []).push(await run())
  console.log(`\nrestore_command, ${count} segments one after another, nothing replayed between; medians of ${repeat}`)
  for (const [what, seconds] of Object.entries(rate)) console.log(`${what.padEnd(36)} ${(1 / median(seconds)).toFixed(1).padStart(7)} segments/s ${(median(seconds) * 1000).toFixed(1).padStart(7)} ms per segment`)
} finally {
  for (const child of children) if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM')
  await Promise.all(children.map((child) => (child.exitCode === null && child.signalCode === null ? once(child, 'exit') : undefined)))
  if (existsSync(folder)) rmSync(folder, { recursive: true, force: true })
}

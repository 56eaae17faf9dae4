/** What the executables have in common: the command that was named is loaded and run, and a failure is said in one sentence. */
import { Command, CommanderError } from 'commander'
import { BeyondError, exit, fromSystem } from '../errors.ts'
import { version } from '../version.ts'

export type ProgramOptions = {
  readonly name: string
  readonly description: string
  /** Each is loaded when it is needed: a subscriber's command should not wait for a service to be loaded. */
  readonly commands: Readonly<Record<string, () => Promise<Command>>>
  /** An end that was asked for, and not a failure. */
  readonly isOrderly?: (failure: unknown) => boolean
}

/** What is still open after the command has ended would be a leak; it must not keep the process. */
const LINGER_MS = 2_000

/** Runs the command line of this process; sets its exit code. */
export async function runProgram({ name, description, commands, isOrderly = () => false }: ProgramOptions): Promise<void> {
  const { stderr, argv } = process
  // Whoever read our errors may be gone; that is no reason to fail.
  stderr.on('error', () => {})
  const program = new Command(name).description(description).version(version).exitOverride().showHelpAfterError('(--help shows all options)')
  const wanted = argv[2] !== undefined && Object.hasOwn(commands, argv[2]) ? [argv[2]] : Object.keys(commands)
  for (const command of wanted) program.addCommand((await commands[command]()).copyInheritedSettings(program))
  try {
    await program.parseAsync()
  } catch (failure) {
    // Commander has said it already.
    if (failure instanceof CommanderError) process.exitCode = failure.exitCode === 0 ? exit.ok : exit.usage
    else process.exitCode = isOrderly(failure) ? exit.ok : explain(name, failure, argv.includes('--json'))
  }
  setTimeout(() => process.exit(), LINGER_MS).unref()
}

/** Says what went wrong in one sentence, or as JSON; answers the exit code. */
function explain(name: string, failure: unknown, json: boolean): number {
  const error = failure instanceof BeyondError ? failure : fromSystem(failure, `running ${name}`)
  const facts = Object.fromEntries(Object.entries(error.facts).map(([fact, value]) => [fact, typeof value === 'bigint' ? String(value) : value]))
  if (json) process.stderr.write(`${JSON.stringify({ error: { code: error.code, message: error.message, ...facts } })}\n`)
  else process.stderr.write(`${name}: ${error.message} [${error.code}]\n`)
  // A fault of ours needs more than a sentence.
  if (!(failure instanceof BeyondError) && !json) process.stderr.write(`${(failure as Error).stack ?? ''}\n`)
  return error.exitCode
}

// What a person sees while set-up works: on a terminal one line that changes, elsewhere plain lines, one at
// least every ten seconds. Always on standard error.

/**
 * @typedef {object} Progress
 * @property {(title: string) => void} begin a step starts
 * @property {(detail: string) => void} detail how far the step is
 * @property {(result: string) => void} done the step's result
 * @property {() => void} clear leave the terminal's line empty, for what is printed next
 */

/**
 * @param {{ isTTY?: boolean, columns?: number, write: (text: string) => unknown }} out
 * @param {() => number} [now] milliseconds
 * @returns {Progress}
 */
export function progressOn(out, now = Date.now) {
  let title = ''
  let started = 0
  let detail = ''
  /** @type {NodeJS.Timeout | undefined} */
  let timer

  const seconds = () => `${((now() - started) / 1000).toFixed(0)} s`
  const draw = () => {
    const line = `  ${title}${detail ? `: ${detail}` : ''} … ${seconds()}`
    out.write(`\r\x1b[2K${line.slice(0, (out.columns ?? 80) - 1)}`)
  }
  const tell = () => out.write(`beyond-pg: ${title}${detail ? `: ${detail}` : ''} (${seconds()})\n`)
  const clear = () => {
    clearInterval(timer)
    if (timer && out.isTTY) out.write('\r\x1b[2K')
    timer = undefined
  }
  return {
    begin(text) {
      title = text
      detail = ''
      started = now()
      clearInterval(timer)
      if (out.isTTY) draw()
      else out.write(`beyond-pg: ${text} …\n`)
      timer = setInterval(out.isTTY ? draw : tell, out.isTTY ? 250 : 10_000).unref()
    },
    detail(text) {
      detail = text
    },
    done(text) {
      clear()
      out.write(out.isTTY ? `\x1b[32m✓\x1b[0m ${text} (${seconds()})\n` : `beyond-pg: ${text} (${seconds()})\n`)
    },
    clear,
  }
}

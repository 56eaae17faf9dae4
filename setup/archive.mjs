// The distribution's package archive as a source of Postgres 18: where it is, how apt is told, what its failures mean. Pure.

import { commonSentence } from './failure.mjs'

/** @typedef {import('./platform.mjs').Distribution} Distribution */

/** What apt is asked for each of its sources. */
export const targetsFormat = '$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(CREATED_BY)'

/**
 * The wanted packages; what they depend on comes along. patchelf makes the programs find the libraries of their prefix;
 * libatomic is what Node needs and a small machine lacks.
 */
export const wantedPackages = ['postgresql-18', 'postgresql-client-18', 'pgbouncer', 'patchelf', 'libatomic1']

/** Suites of a release that hold only some of its packages. */
const partial = /-(security|updates|backports|proposed|debug|backports-sloppy|proposed-updates)$/

/**
 * The mirrors that the machine uses for its distribution, likeliest first.
 * @param {string} targets what `apt-get indextargets --no-release-info --format targetsFormat` printed
 * @param {Distribution} distribution
 * @returns {string[]}
 */
export function mirrorsIn(targets, distribution) {
  const uris = targets.split('\n').flatMap((line) => {
    const [uri = '', release = '', component, createdBy] = line.trim().split('|')
    const usable = createdBy === 'Packages' && component === 'main' && !partial.test(release) && !uri.startsWith('cdrom:')
    return usable ? [uri] : []
  })
  const named = (/** @type {string} */ uri) => distribution.archive.test(uri)
  return [...new Set([...uris.filter(named), ...uris.filter((uri) => !named(uri))])]
}

/**
 * The one line of our own sources list.
 * @param {string} mirror
 * @param {Distribution} distribution
 * @param {string} debArch
 */
export function sourcesLine(mirror, { suite, components, keyring }, debArch) {
  return `deb [arch=${debArch} signed-by=${keyring} target=Packages] ${mirror} ${suite} ${components.join(' ')}\n`
}

/**
 * The configuration that lets apt work beside the machine's own state, as any account. Proxies and logins stay the machine's.
 * @param {string} folder our own, where all of apt's files go
 * @param {string} debArch
 */
export function aptConfiguration(folder, debArch) {
  return `#clear APT::Architectures;
#clear APT::Update;
#clear APT::NeverAutoRemove;
#clear DPkg;
Dir::Etc::SourceList "${folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "${folder}/state";
Dir::State::Lists "${folder}/state/lists";
Dir::State::status "${folder}/state/status";
Dir::Cache "${folder}/cache";
Dir::Cache::Archives "${folder}/cache/archives";
Dir::Log "${folder}/log";
APT::Architecture "${debArch}";
APT::Architectures { "${debArch}"; };
APT::Default-Release "";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
APT::Get::Assume-Yes "true";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
`
}

/**
 * How far a download is, from a line of apt's status pipe.
 * @param {string} line such as "dlstatus:3:12.5:Retrieving file 3 of 92"
 * @returns {number | undefined} percent
 */
export function downloadPercent(line) {
  const match = /^dlstatus:[^:]*:([\d.]+):/.exec(line)
  return match ? Math.min(100, Math.round(Number(match[1]))) : undefined
}

/**
 * What apt printed when it failed, in one sentence.
 * @param {string} output
 * @param {Distribution} distribution
 */
export function aptSentence(output, { name, suite }) {
  const instead = 'or install Postgres 18 and PgBouncer 1.24 or later yourself'
  const common = commonSentence(output, 'downloading Postgres 18')
  if (common) return common
  if (/resolv|Temporary failure|unable to connect|could not connect|connection (failed|refused|timed out)|unreachable|timed out|initiate the connection/i.test(output)) {
    return `The ${name} package archive can't be reached: check the network and apt's mirror and proxy settings, and start again (BEYOND_PG_MIRROR names another mirror).`
  }
  if (/NO_PUBKEY|not signed|GPG error|EXPKEYSIG|Missing key|keyring|sqv/i.test(output)) {
    return `The ${name} package archive's signature can't be checked: update the package that holds the ${name} archive keyring, ${instead}.`
  }
  if (/does not have a Release file|Unable to locate package|404 |no installation candidate/i.test(output)) {
    return `The machine's package mirror lacks ${name}'s suite ${suite}: set BEYOND_PG_MIRROR to the address of a full ${name} mirror, ${instead}.`
  }
  const said = output.split('\n').filter((line) => line.startsWith('E: ')).at(-1) ?? output.trim().split('\n').at(-1) ?? ''
  return `apt could not download Postgres 18: ${said.replace(/^E: /, '') || 'it gave no reason'}`
}

// Runs the cases with the installed `e2b`; one JSON line each. `--list` tells what would be run, and every public
// method of the SDK. `--only TEXT` runs the rows with that text, `--differing` those that depend on the mode.

import { readFile } from 'node:fs/promises'
import { inspect, parseArgs } from 'node:util'

import codeInterpreter from './code-interpreter.mjs'
import commands from './commands.mjs'
import files from './files.mjs'
import { Shared, e2b } from './kit.mjs'
import lifecycle from './lifecycle.mjs'
import reaching from './reaching.mjs'
import repositories from './repositories.mjs'
import saving from './saving.mjs'
import templates from './templates.mjs'
import terminals from './terminals.mjs'
import watching from './watching.mjs'

const SUITES = {
  sdk: [commands, files, watching, terminals, repositories, lifecycle, saving, reaching, templates].flat(),
  'code-interpreter': codeInterpreter,
}

// The classes of the SDK's declarations, and the names that the table has for them.
const CLASSES = {
  Sandbox: 'Sandbox',
  SandboxApi: 'Sandbox',
  Filesystem: 'files',
  Commands: 'commands',
  CommandHandle: 'CommandHandle',
  Pty: 'pty',
  Git: 'git',
  WatchHandle: 'WatchHandle',
  SandboxPaginator: 'SandboxPaginator',
  SnapshotPaginator: 'SnapshotPaginator',
  SecretPaginator: 'SecretPaginator',
  Paginator: 'SandboxPaginator',
  TemplateBase: 'Template',
  Volume: 'Volume',
  Secret: 'Secret',
}
const RENAMED = { 'pty.send_input': 'pty.send_stdin' }

// Members of the declarations: what is not private or protected and has parameters or a getter.
async function publicMethods() {
  const file = new URL(import.meta.resolve('e2b').replace(/index\.m?js$/, 'index.d.ts'))
  const text = (await readFile(file, 'utf8')).replace(/\/\*\*.*?\*\//gs, '')
  const found = new Set(['E2B'])
  for (const [name, shown] of Object.entries(CLASSES)) {
    const [, body] = text.match(new RegExp(`declare (?:abstract )?class ${name}\\b[^\\n]*\\{\\n(.*?)\\n\\}`, 's')) ?? []
    if (body === undefined) throw new Error(`the SDK declares no class ${name}`)
    for (const [, member] of body.matchAll(/^ {2}(?:static |abstract |get )*(\w+)(?:<[^\n]*?>)?\(/gm)) {
      const snake = member.replace(/[A-Z]+/g, (capitals) => '_' + capitals.toLowerCase())
      if (member !== 'constructor') found.add(RENAMED[`${shown}.${snake}`] ?? `${shown}.${snake}`)
    }
  }
  return [...found]
}

async function run(scenario, shared) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not finished within ${scenario.seconds} s`)), scenario.seconds * 1000)
  })
  try {
    await Promise.race([scenario.run(shared), late])
    return null
  } catch (error) {
    await shared.renew()
    return inspect(error).slice(0, 3000)
  } finally {
    clearTimeout(timer)
  }
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { list: { type: 'boolean' }, only: { type: 'string', default: '' }, differing: { type: 'boolean' } },
})
const chosen = SUITES[positionals[0]].filter(({ row, domain }) => row.includes(values.only) && (domain || !values.differing))
if (values.list) {
  const rows = chosen.map(({ row, covers }) => ({ row, covers, unused: [] }))
  console.log(JSON.stringify({ rows, methods: await publicMethods() }))
  process.exit(0)
}
// A background command that no case waits for any more ends with an error that nobody sees.
process.on('unhandledRejection', (error) => {
  if (!(error instanceof e2b.SandboxError)) throw error
})
const shared = new Shared()
for (const scenario of chosen) {
  const began = performance.now()
  const error = await run(scenario, shared)
  console.log(JSON.stringify({ row: scenario.row, error, seconds: Math.round((performance.now() - began) / 10) / 100 }))
}
await shared.renew()
process.exit(0)

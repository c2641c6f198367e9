// `@e2b/code-interpreter` on the base template: all but the execution of code, for which its own template is needed.

import { Sandbox } from '@e2b/code-interpreter'

import { assert, e2b, raised, scenario } from './kit.mjs'

export default [
  scenario('CodeInterpreter.create', 'from the base template; commands and files work', { domain: true }, async () => {
    const sandbox = await Sandbox.create('base', { timeoutMs: 60_000 })
    try {
      assert.equal((await sandbox.commands.run('echo hello')).stdout, 'hello\n')
      await sandbox.files.write('a', 'text')
      assert.equal(await sandbox.files.read('a'), 'text')
    } finally {
      await sandbox.kill()
    }
  }),

  scenario('CodeInterpreter.create', 'without its own template: a clear refusal that names it', async () => {
    await raised(Sandbox.create(), e2b.SandboxError, 'code-interpreter-v1')
  }),
]

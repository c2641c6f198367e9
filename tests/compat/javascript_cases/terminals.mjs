// PTYs.

import { Sandbox, assert, e2b, raised, scenario, until } from './kit.mjs'

// A PTY with what it has shown.
class Terminal {
  shown = ''
  #decoder = new TextDecoder()

  constructor(sandbox) {
    this.sandbox = sandbox
  }

  #show = (data) => {
    this.shown += this.#decoder.decode(data, { stream: true })
  }

  async create(options = {}) {
    const given = { cols: 80, rows: 24, timeoutMs: 0, ...options }
    this.handle = await this.sandbox.pty.create({ ...given, onData: this.#show })
    return this
  }

  async connect(pid) {
    this.handle = await this.sandbox.pty.connect(pid, { onData: this.#show })
    return this
  }

  type(text) {
    return this.sandbox.pty.sendInput(this.handle.pid, new TextEncoder().encode(text))
  }

  async shows(text) {
    await until(() => this.shown.includes(text), 15).catch(() => {
      assert.fail(`${JSON.stringify(text)} is not in ${JSON.stringify(this.shown)}`)
    })
  }

  async kill() {
    await this.sandbox.pty.kill(this.handle.pid)
    await this.handle.wait().catch(() => {})
  }
}

export default [
  scenario(
    'pty.create',
    'a terminal of the size asked for, which runs what is typed',
    { also: ['pty.send_stdin'], domain: true },
    async (shared) => {
      const terminal = await new Terminal(await shared.sandbox()).create({ cols: 101, rows: 33 })
      await terminal.type('stty size; echo $TERM $((6*7)); tty; exit 0\n')
      assert.equal((await terminal.handle.wait()).exitCode, 0)
      for (const text of ['33 101', 'xterm-256color 42', '/dev/pts/']) {
        assert.ok(terminal.shown.includes(text), terminal.shown)
      }
    },
  ),

  scenario('pty.create', 'user, cwd, envs', async (shared) => {
    const sandbox = await shared.sandbox()
    const terminal = await new Terminal(sandbox).create({ user: 'root', cwd: '/usr', envs: { COLOUR: 'blue' } })
    await terminal.type('echo $(whoami)-$(pwd)-$COLOUR\n')
    await terminal.shows('root-/usr-blue')
    await terminal.kill()
  }),

  scenario('pty.create', 'the exit code comes back', async (shared) => {
    const terminal = await new Terminal(await shared.sandbox()).create()
    await terminal.type('exit 9\n')
    assert.equal((await raised(terminal.handle.wait(), e2b.CommandExitError)).exitCode, 9)
  }),

  scenario('pty.create', 'control characters: ^C interrupts, ^D ends', async (shared) => {
    const terminal = await new Terminal(await shared.sandbox()).create()
    await terminal.type("sh -c 'echo $((1+1))-begun; exec sleep 300'\n")
    await terminal.shows('2-begun')
    await terminal.type('\x03')
    await terminal.type("PS1=at''prompt; echo $((40+2))\n")
    await terminal.shows('42')
    await terminal.shows('atprompt')
    await terminal.type('\x04')
    await terminal.handle.wait().catch(() => {})
  }),

  scenario('pty.resize', 'the new size is seen inside', { domain: true }, async (shared) => {
    const sandbox = await shared.sandbox()
    const terminal = await new Terminal(sandbox).create()
    await sandbox.pty.resize(terminal.handle.pid, { cols: 133, rows: 44 })
    await terminal.type('stty size\n')
    await terminal.shows('44 133')
    await terminal.kill()
    await raised(sandbox.pty.resize(999_999, { cols: 133, rows: 44 }), e2b.NotFoundError)
  }),

  scenario('pty.kill', 'True and the shell is gone at once; then False', async (shared) => {
    const sandbox = await shared.sandbox()
    const terminal = await new Terminal(sandbox).create()
    const { pid } = terminal.handle
    assert.equal(await sandbox.pty.kill(pid), true)
    const result = await sandbox.commands.run(`kill -0 ${pid} 2>/dev/null || echo gone`, { user: 'root' })
    assert.equal(result.stdout, 'gone\n')
    await raised(terminal.handle.wait(), e2b.CommandExitError)
    assert.equal(await sandbox.pty.kill(pid), false)
  }),

  scenario(
    'pty.connect',
    'a second client shows and types; the first goes on',
    { domain: true },
    async (shared) => {
      const sandbox = await shared.sandbox()
      const first = await new Terminal(sandbox).create()
      await first.type('echo $((1+1))-first\n')
      await first.shows('2-first')
      const other = await Sandbox.connect(sandbox.sandboxId)
      const second = await new Terminal(other).connect(first.handle.pid)
      await second.type('echo $((1+2))-second\n')
      await second.shows('3-second')
      await first.shows('3-second')
      await first.kill()
      await second.handle.wait().catch(() => {})
      await raised(new Terminal(sandbox).connect(999_999), e2b.NotFoundError)
    },
  ),

  scenario('pty.connect', 'after a disconnect: the shell went on', async (shared) => {
    const sandbox = await shared.sandbox()
    const first = await new Terminal(sandbox).create()
    await first.type('COLOUR=blue\n')
    await first.handle.disconnect()
    const second = await new Terminal(sandbox).connect(first.handle.pid)
    await second.type('echo $COLOUR-$((1+2))\n')
    await second.shows('blue-3')
    await second.kill()
  }),
]

// Processes in the sandbox.

import { createHash } from 'node:crypto'

import { Sandbox, assert, e2b, raised, scenario, sleep, until, withSandbox } from './kit.mjs'

const pids = async (sandbox) => (await sandbox.commands.list()).map((process) => process.pid)

// A command that waits for ever, and has begun to; `within` waits for the error that a killed sandbox gives.
async function failureOfRunning(sandbox) {
  const { promise: started, resolve } = Promise.withResolvers()
  const running = sandbox.commands.run('echo started; sleep 300', { timeoutMs: 200_000, onStdout: resolve })
  const failed = raised(running, e2b.TimeoutError, 'killed')
  await started
  return {
    within: async (milliseconds) => {
      const began = performance.now()
      await failed
      assert.ok(performance.now() - began < milliseconds)
    },
  }
}

export default [
  scenario('commands.run', 'output, errors, exit code', { domain: true }, async (shared) => {
    const sandbox = await shared.sandbox()
    const result = await sandbox.commands.run('echo out; echo err >&2')
    assert.equal(result.stdout, 'out\n')
    assert.equal(result.stderr, 'err\n')
    assert.equal(result.exitCode, 0)
  }),

  scenario('commands.run', 'a non-zero exit raises CommandExitException with the output', async (shared) => {
    const sandbox = await shared.sandbox()
    const error = await raised(sandbox.commands.run('echo out; echo err >&2; exit 42'), e2b.CommandExitError)
    assert.deepEqual([error.stdout, error.stderr, error.exitCode], ['out\n', 'err\n', 42])
  }),

  scenario('commands.run', 'a command that a signal ended raises CommandExitException', async (shared) => {
    const sandbox = await shared.sandbox()
    const error = await raised(sandbox.commands.run('kill -9 $$'), e2b.CommandExitError)
    assert.equal(error.exitCode, -1)
    assert.match(String(error.error), /signal: killed/)
  }),

  scenario('commands.run', 'callbacks get the output while it is made', { domain: true }, async (shared) => {
    const sandbox = await shared.sandbox()
    const seen = []
    const moments = []
    const result = await sandbox.commands.run('echo one; sleep 1; echo two >&2; sleep 0.3; echo three', {
      onStdout: (text) => {
        moments.push(performance.now())
        seen.push(['out', text])
      },
      onStderr: (text) => {
        seen.push(['err', text])
      },
    })
    assert.deepEqual(seen, [
      ['out', 'one\n'],
      ['err', 'two\n'],
      ['out', 'three\n'],
    ])
    assert.ok(moments[1] - moments[0] > 1000)
    assert.equal(result.stdout, 'one\nthree\n')
  }),

  scenario('commands.run', "envs are added to the sandbox's own and win", async () => {
    await withSandbox({ envs: { A: 'sandbox', B: 'sandbox' } }, async (sandbox) => {
      const line = 'echo "$A $B $HOME $USER $LOGNAME $E2B_SANDBOX"'
      const result = await sandbox.commands.run(line, { envs: { B: 'command' } })
      assert.equal(result.stdout, 'sandbox command /home/user user user true\n')
    })
  }),

  scenario('commands.run', 'cwd: absolute, relative to home, missing', async (shared) => {
    const sandbox = await shared.sandbox()
    await sandbox.commands.run('mkdir -p ~/deep/er')
    for (const [cwd, expected] of [
      [undefined, '/home/user\n'],
      ['/usr/lib', '/usr/lib\n'],
      ['deep/er', '/home/user/deep/er\n'],
      ['~/deep', '/home/user/deep\n'],
    ]) {
      assert.equal((await sandbox.commands.run('pwd', { cwd })).stdout, expected)
    }
    await raised(
      sandbox.commands.run('pwd', { cwd: '/no/such/place' }),
      e2b.InvalidArgumentError,
      '/no/such/place',
    )
  }),

  scenario('commands.run', 'user: user by default, root, unknown', async (shared) => {
    const sandbox = await shared.sandbox()
    assert.equal((await sandbox.commands.run('whoami')).stdout, 'user\n')
    assert.equal((await sandbox.commands.run('whoami; pwd; id -u', { user: 'root' })).stdout, 'root\n/root\n0\n')
    assert.equal((await sandbox.commands.run('sudo whoami')).stdout, 'root\n')
    await raised(
      sandbox.commands.run('whoami', { user: 'nobody-of-that-name' }),
      e2b.AuthenticationError,
      'nobody-of-that-name',
    )
  }),

  scenario('commands.run', 'the timeout raises TimeoutException and ends the process', async (shared) => {
    const sandbox = await shared.sandbox()
    const began = performance.now()
    await raised(sandbox.commands.run('exec -a too-long sleep 61', { timeoutMs: 2000 }), e2b.TimeoutError)
    assert.ok(performance.now() - began < 8000)
    await until(async () => !(await sandbox.commands.run("pgrep -f '^too-long' || true")).stdout, 10)
  }),

  scenario('commands.run', 'timeout=0 is none', async (shared) => {
    const sandbox = await shared.sandbox()
    assert.equal((await sandbox.commands.run('sleep 1; echo done', { timeoutMs: 0 })).stdout, 'done\n')
  }),

  scenario('commands.run', '10 MB of output arrive whole', async (shared) => {
    const sandbox = await shared.sandbox()
    const result = await sandbox.commands.run('seq 1 1400000 | tee /tmp/huge; sha256sum /tmp/huge >&2')
    assert.ok(result.stdout.length > 9_900_000)
    assert.equal(createHash('sha256').update(result.stdout).digest('hex'), result.stderr.split(' ')[0])
  }),

  scenario('commands.run', 'every character, also those cut between two chunks', async (shared) => {
    const sandbox = await shared.sandbox()
    assert.equal((await sandbox.commands.run('echo \'äß漢字 🦀 "$`\'')).stdout, 'äß漢字 🦀 "$`\n')
    const result = await sandbox.commands.run("printf '\\360\\237'; sleep 0.3; printf '\\246\\200'")
    assert.equal(result.stdout, '🦀')
  }),

  scenario('commands.run', 'five at the same time', async (shared) => {
    const sandbox = await shared.sandbox()
    // Each waits for the next one's file: one after the other they would never end.
    const lines = [0, 1, 2, 3, 4].map(
      (n) => `touch /tmp/p${n}; until [ -e /tmp/p${(n + 1) % 5} ]; do sleep 0.05; done; echo ${n}`,
    )
    const results = await Promise.all(lines.map((line) => sandbox.commands.run(line)))
    assert.deepEqual(
      results.map((result) => result.stdout),
      ['0\n', '1\n', '2\n', '3\n', '4\n'],
    )
  }),

  scenario(
    'commands.run',
    'background: a handle at once, wait gives the result',
    { also: ['CommandHandle.wait'] },
    async (shared) => {
      const sandbox = await shared.sandbox()
      const began = performance.now()
      const handle = await sandbox.commands.run('sleep 2; echo late', { background: true })
      assert.ok(performance.now() - began < 2000)
      assert.ok(handle.pid > 0)
      const result = await handle.wait()
      assert.deepEqual([result.stdout, result.exitCode], ['late\n', 0])
    },
  ),

  scenario(
    'CommandHandle.stdout',
    'output, errors and exit code of a finished command stay on the handle',
    { also: ['CommandHandle.stderr', 'CommandHandle.exit_code', 'CommandHandle.error'] },
    async (shared) => {
      const sandbox = await shared.sandbox()
      const handle = await sandbox.commands.run('echo out; echo err >&2; exit 3', { background: true })
      await raised(handle.wait(), e2b.CommandExitError)
      assert.deepEqual([handle.stdout, handle.stderr, handle.exitCode], ['out\n', 'err\n', 3])
      assert.ok(handle.error)
    },
  ),

  scenario('CommandHandle.kill', 'True, then False; the process is gone', async (shared) => {
    const sandbox = await shared.sandbox()
    const handle = await sandbox.commands.run('sleep 300', { background: true })
    assert.equal(await handle.kill(), true)
    await raised(handle.wait(), e2b.CommandExitError)
    assert.ok(!(await pids(sandbox)).includes(handle.pid))
    assert.equal(await handle.kill(), false)
  }),

  scenario('CommandHandle.disconnect', 'the command goes on', { domain: true }, async (shared) => {
    const sandbox = await shared.sandbox()
    const handle = await sandbox.commands.run('sleep 2; echo written >/tmp/disconnect; sleep 300', {
      background: true,
    })
    await handle.disconnect()
    assert.ok((await pids(sandbox)).includes(handle.pid))
    await until(() => sandbox.files.exists('/tmp/disconnect'), 10)
    assert.equal(await sandbox.commands.kill(handle.pid), true)
  }),

  scenario(
    'Sandbox.kill',
    "a running command raises the SDK's error of a killed sandbox at once",
    { domain: true },
    async () => {
      await withSandbox({}, async (sandbox) => {
        const failed = await failureOfRunning(sandbox)
        await Sandbox.kill(sandbox.sandboxId)
        await failed.within(5000)
      })
    },
  ),

  scenario(
    'Sandbox.set_timeout',
    "a running command raises that error when the sandbox's time is over",
    { domain: true },
    async () => {
      await withSandbox({}, async (sandbox) => {
        const failed = await failureOfRunning(sandbox)
        await sandbox.setTimeout(1000)
        await failed.within(6000)
      })
    },
  ),

  scenario(
    'commands.list',
    'processes that were started through envd, with what they were started with',
    async (shared) => {
      const sandbox = await shared.sandbox()
      const handle = await sandbox.commands.run('sleep 300', {
        background: true,
        envs: { LISTED: '1' },
        cwd: '/usr',
      })
      const process = (await sandbox.commands.list()).find((found) => found.pid === handle.pid)
      assert.deepEqual([process.cmd, process.args, process.cwd], ['/bin/bash', ['-l', '-c', 'sleep 300'], '/usr'])
      assert.equal(process.envs.LISTED, '1')
      assert.ok(!process.tag)
      await handle.kill()
    },
  ),

  scenario('commands.kill', 'True, then False; False for an unknown process', async (shared) => {
    const sandbox = await shared.sandbox()
    const handle = await sandbox.commands.run('sleep 300', { background: true })
    assert.equal(await sandbox.commands.kill(handle.pid), true)
    await raised(handle.wait(), e2b.CommandExitError)
    assert.equal(await sandbox.commands.kill(handle.pid), false)
    assert.equal(await sandbox.commands.kill(999_999), false)
  }),

  scenario('commands.connect', 'a running command from another client, with its later output', async (shared) => {
    const sandbox = await shared.sandbox()
    const line = 'echo early; until [ -e /tmp/go-on ]; do sleep 0.1; done; echo late; exit 5'
    const handle = await sandbox.commands.run(line, { background: true })
    const other = await Sandbox.connect(sandbox.sandboxId)
    const second = await other.commands.connect(handle.pid)
    assert.equal(second.pid, handle.pid)
    await sandbox.files.write('/tmp/go-on', '')
    for (const [connected, output] of [
      [handle, 'early\nlate\n'],
      [second, 'late\n'],
    ]) {
      const error = await raised(connected.wait(), e2b.CommandExitError)
      assert.equal(error.exitCode, 5)
      assert.ok(error.stdout.endsWith(output))
    }
  }),

  scenario(
    'commands.connect',
    'a command that has just finished gives its end; an unknown one is not found',
    async (shared) => {
      const sandbox = await shared.sandbox()
      const handle = await sandbox.commands.run('exit 7', { background: true })
      await raised(handle.wait(), e2b.CommandExitError)
      const second = await sandbox.commands.connect(handle.pid)
      assert.equal((await raised(second.wait(), e2b.CommandExitError)).exitCode, 7)
      await raised(sandbox.commands.connect(999_999), e2b.NotFoundError)
    },
  ),

  scenario(
    'commands.send_stdin',
    'text and bytes; close_stdin ends the input',
    { also: ['commands.close_stdin', 'commands.supports_stdin_close'] },
    async (shared) => {
      const sandbox = await shared.sandbox()
      const handle = await sandbox.commands.run('cat; echo end', { background: true, stdin: true })
      await sandbox.commands.sendStdin(handle.pid, 'text ä\n')
      await sandbox.commands.sendStdin(handle.pid, new TextEncoder().encode('bytes\n'))
      assert.equal(sandbox.commands.supportsStdinClose, true)
      await sandbox.commands.closeStdin(handle.pid)
      assert.equal((await handle.wait()).stdout, 'text ä\nbytes\nend\n')
    },
  ),

  scenario(
    'CommandHandle.send_stdin',
    'through the handle',
    { also: ['CommandHandle.close_stdin'] },
    async (shared) => {
      const sandbox = await shared.sandbox()
      const handle = await sandbox.commands.run('cat', { background: true, stdin: true })
      await handle.sendStdin('text\n')
      await handle.closeStdin()
      assert.equal((await handle.wait()).stdout, 'text\n')
    },
  ),

  scenario('commands.send_stdin', 'a command without stdin, or unknown, is refused', async (shared) => {
    const sandbox = await shared.sandbox()
    const handle = await sandbox.commands.run('sleep 300', { background: true })
    await raised(sandbox.commands.sendStdin(handle.pid, 'x'), e2b.SandboxError)
    await handle.kill()
    await raised(handle.wait(), e2b.CommandExitError)
    await raised(sandbox.commands.sendStdin(999_999, 'x'), e2b.NotFoundError)
  }),

  scenario('commands.run', 'stdin is empty unless asked for', async (shared) => {
    const sandbox = await shared.sandbox()
    assert.equal((await sandbox.commands.run('cat; echo end')).stdout, 'end\n')
  }),

  scenario(
    'commands.run',
    'a client whose request is aborted leaves the command alone until its timeout',
    { domain: true },
    async (shared) => {
      const sandbox = await shared.sandbox()
      const stop = new AbortController()
      const options = { background: true, timeoutMs: 4000, signal: stop.signal }
      const handle = await sandbox.commands.run('sleep 301', options)
      stop.abort()
      await handle.wait().catch(() => {})
      await sleep(1000)
      assert.ok((await pids(sandbox)).includes(handle.pid))
      await until(async () => !(await pids(sandbox)).includes(handle.pid), 10)
    },
  ),
]

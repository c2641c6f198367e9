// Pause, resume, auto-pause, fork, snapshots.

import { randomUUID } from 'node:crypto'

import { MISSING, Sandbox, allItems, assert, e2b, get, raised, scenario, serve, until, withSandbox } from './kit.mjs'

const state = async (sandbox) => (await sandbox.getInfo()).state
const bootId = (sandbox) => sandbox.files.read('/proc/sys/kernel/random/boot_id')
const sleeper = (sandbox) => sandbox.commands.run('sleep 600', { background: true })
const runs = async (sandbox, { pid }) => (await sandbox.commands.list()).some((process) => process.pid === pid)
const alive = async (sandbox, { pid }) =>
  (await sandbox.commands.run(`kill -0 ${pid} && echo alive`)).stdout === 'alive\n'

export default [
  scenario(
    'Sandbox.pause',
    'full: processes, variables and files are there after connect',
    { also: ['Sandbox.connect'] },
    async () => {
      const metadata = { run: randomUUID() }
      await withSandbox({ envs: { KEPT: 'yes' }, metadata }, async (sandbox) => {
        const handle = await sleeper(sandbox)
        await sandbox.files.write('note', 'text')
        assert.equal(await sandbox.pause(), true)
        await handle.wait().catch(() => {})
        const listed = await allItems(Sandbox.list({ query: { metadata } }))
        assert.deepEqual(
          listed.map((info) => info.state),
          ['paused'],
        )
        assert.equal(await sandbox.isRunning(), false)
        assert.equal(await sandbox.connect({ timeoutMs: 120_000 }), sandbox)
        assert.equal(await sandbox.isRunning(), true)
        assert.ok(await runs(sandbox, handle))
        const result = await sandbox.commands.run(`echo $KEPT; cat note; kill -0 ${handle.pid} && echo alive`)
        assert.equal(result.stdout, 'yes\ntextalive\n')
      })
    },
  ),

  scenario('Sandbox.pause', 'False when it is paused already; not found when it is unknown', async () => {
    await withSandbox({}, async (sandbox) => {
      assert.equal(await sandbox.pause(), true)
      assert.equal(await sandbox.pause(), false)
      assert.equal(await Sandbox.kill(sandbox.sandboxId), true)
    })
    await raised(Sandbox.pause(MISSING), e2b.SandboxNotFoundError)
  }),

  scenario('Sandbox.pause', 'static, and connect by id', async () => {
    await withSandbox({}, async (sandbox) => {
      assert.equal(await Sandbox.pause(sandbox.sandboxId), true)
      const other = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 120_000 })
      assert.equal((await other.commands.run('echo 1')).stdout, '1\n')
      // The first handle has the same sandbox and token.
      assert.equal((await sandbox.commands.run('echo 1')).stdout, '1\n')
    })
  }),

  scenario(
    'Sandbox.pause',
    'filesystem: files stay, processes and /dev/shm do not',
    { also: ['Sandbox.connect'] },
    async () => {
      await withSandbox({ envs: { KEPT: 'yes' } }, async (sandbox) => {
        const handle = await sleeper(sandbox)
        const before = await bootId(sandbox)
        await sandbox.files.write('note', 'text')
        await sandbox.commands.run('echo x >/dev/shm/lost', { user: 'root' })
        assert.equal(await sandbox.pause({ keepMemory: false }), true)
        await handle.wait().catch(() => {})
        await sandbox.connect({ timeoutMs: 120_000 })
        assert.notEqual(await bootId(sandbox), before)
        assert.equal(await sandbox.files.read('note'), 'text')
        assert.ok(!(await sandbox.files.exists('/dev/shm/lost')))
        assert.ok(!(await runs(sandbox, handle)))
        assert.equal((await sandbox.commands.run('echo $KEPT')).stdout, 'yes\n')
      })
    },
  ),

  scenario('Sandbox.connect', "on_resume='reboot': a full pause comes back from the disk", async () => {
    await withSandbox({}, async (sandbox) => {
      const handle = await sleeper(sandbox)
      await sandbox.files.write('note', 'text')
      await sandbox.commands.run('sync')
      await sandbox.pause()
      await handle.wait().catch(() => {})
      await sandbox.connect({ timeoutMs: 120_000, onResume: 'reboot' })
      assert.equal(await sandbox.files.read('note'), 'text')
      assert.ok(!(await runs(sandbox, handle)))
    })
  }),

  scenario('Sandbox.beta_pause', 'the old name of pause', async () => {
    await withSandbox({}, async (sandbox) => {
      assert.equal(await sandbox.betaPause(), true)
      assert.equal(await state(sandbox), 'paused')
    })
  }),

  scenario('Sandbox.create', 'lifecycle: a timeout pauses; connect wakes it', async () => {
    await withSandbox({ lifecycle: { onTimeout: 'pause' } }, async (sandbox) => {
      const handle = await sleeper(sandbox)
      const ended = handle.wait().catch(() => {})
      assert.deepEqual((await sandbox.getInfo()).lifecycle, { onTimeout: 'pause', autoResume: false })
      const began = performance.now()
      await sandbox.setTimeout(2000)
      await until(async () => (await state(sandbox)) === 'paused', 10)
      assert.ok(performance.now() - began > 1400)
      assert.equal(await sandbox.isRunning(), false)
      await ended
      await sandbox.connect({ timeoutMs: 120_000 })
      assert.ok(await runs(sandbox, handle))
    })
  }),

  scenario('Sandbox.create', 'lifecycle: a timeout that pauses the file system alone', async () => {
    await withSandbox({ lifecycle: { onTimeout: { action: 'pause', keepMemory: false } } }, async (sandbox) => {
      const handle = await sleeper(sandbox)
      const ended = handle.wait().catch(() => {})
      await sandbox.files.write('note', 'text')
      await sandbox.setTimeout(0)
      await until(async () => (await state(sandbox)) === 'paused', 15)
      await ended
      await sandbox.connect({ timeoutMs: 120_000 })
      assert.equal(await sandbox.files.read('note'), 'text')
      assert.ok(!(await runs(sandbox, handle)))
    })
  }),

  scenario(
    'Sandbox.create',
    'lifecycle: traffic wakes a paused sandbox (auto_resume)',
    { domain: true },
    async () => {
      await withSandbox({ lifecycle: { onTimeout: 'pause', autoResume: true } }, async (sandbox) => {
        assert.equal((await sandbox.getInfo()).lifecycle.autoResume, true)
        await serve(sandbox, '0.0.0.0:8080')
        await sandbox.pause()
        assert.equal((await sandbox.commands.run('echo awake')).stdout, 'awake\n')
        assert.equal(await state(sandbox), 'running')
        await sandbox.pause()
        assert.equal((await get(sandbox, 8080)).status, 200)
        assert.equal(await state(sandbox), 'running')
      })
    },
  ),

  scenario('Sandbox.fork', 'copies with memory and files; the source goes on', { domain: true }, async () => {
    await withSandbox({}, async (sandbox) => {
      const handle = await sleeper(sandbox)
      await sandbox.files.write('note', 'source')
      const forks = await sandbox.fork({ timeoutMs: 120_000, count: 2 })
      try {
        assert.equal(new Set([sandbox, ...forks].map(({ sandboxId }) => sandboxId)).size, 3)
        for (const fork of forks) {
          assert.ok(await runs(fork, handle))
          await fork.files.write('note', fork.sandboxId)
        }
        assert.equal(await sandbox.files.read('note'), 'source')
        for (const fork of forks) assert.equal(await fork.files.read('note'), fork.sandboxId)
        assert.ok(await alive(sandbox, handle))
      } finally {
        for (const fork of forks) await fork.kill()
      }
    })
  }),

  scenario(
    'Sandbox.fork',
    'static; an unknown sandbox is not found; a bad count is refused',
    async (shared) => {
      const sandbox = await shared.sandbox()
      const [fork] = await Sandbox.fork(sandbox.sandboxId, { timeoutMs: 60_000 })
      assert.equal((await fork.commands.run('echo 1')).stdout, '1\n')
      await fork.kill()
      await raised(Sandbox.fork(MISSING), e2b.SandboxNotFoundError)
      await raised(sandbox.fork({ count: 0 }), e2b.SandboxError, '400')
    },
  ),

  scenario(
    'Sandbox.create_snapshot',
    'unnamed; sandboxes from it run on with memory, each by itself',
    { also: ['Sandbox.delete_snapshot'] },
    async () => {
      let saved
      let handle
      await withSandbox({}, async (sandbox) => {
        handle = await sleeper(sandbox)
        handle.wait().catch(() => {})
        await sandbox.files.write('note', 'source')
        saved = await sandbox.createSnapshot()
        assert.ok(saved.snapshotId)
        assert.ok(await alive(sandbox, handle))
      })
      const template = saved.snapshotId
      await withSandbox({ template }, (one) =>
        withSandbox({ template }, async (two) => {
          assert.ok(await runs(one, handle))
          await one.files.write('note', 'one')
          assert.equal(await two.files.read('note'), 'source')
        }),
      )
      assert.equal(await Sandbox.deleteSnapshot(saved.snapshotId), true)
      assert.equal(await Sandbox.deleteSnapshot(saved.snapshotId), false)
      await raised(Sandbox.create(saved.snapshotId), e2b.SandboxError, '404')
    },
  ),

  scenario(
    'Sandbox.create_snapshot',
    'by name, static; an unknown sandbox is not found',
    async (shared) => {
      const { sandboxId } = await shared.sandbox()
      const name = 'snap-' + randomUUID().slice(0, 8)
      const saved = await Sandbox.createSnapshot(sandboxId, { name })
      try {
        assert.ok(saved.names.some((given) => given.includes(name)))
        await withSandbox({ template: name }, async (copy) => {
          assert.equal((await copy.commands.run('echo 1')).stdout, '1\n')
        })
      } finally {
        assert.equal(await Sandbox.deleteSnapshot(saved.snapshotId), true)
      }
      await raised(Sandbox.createSnapshot(MISSING), e2b.SandboxNotFoundError)
    },
  ),

  scenario(
    'Sandbox.list_snapshots',
    'of a sandbox, by name, in pages',
    { also: ['SnapshotPaginator.next_items', 'SnapshotPaginator.has_next', 'SnapshotPaginator.next_token'] },
    async () => {
      await withSandbox({}, async (sandbox) => {
        const name = 'snap-' + randomUUID().slice(0, 8)
        const first = await sandbox.createSnapshot()
        const second = await sandbox.createSnapshot({ name })
        try {
          const paginator = sandbox.listSnapshots({ limit: 1 })
          const found = []
          let pages = 0
          while (paginator.hasNext) {
            assert.ok(pages === 0 || paginator.nextToken)
            found.push(...(await paginator.nextItems()).map((info) => info.snapshotId))
            pages += 1
          }
          assert.deepEqual(found.sort(), [first.snapshotId, second.snapshotId].sort())
          assert.equal(pages, 2)
          const named = await Sandbox.listSnapshots({ name }).nextItems()
          assert.deepEqual(
            named.map((info) => info.snapshotId),
            [second.snapshotId],
          )
          assert.deepEqual(await Sandbox.listSnapshots({ name: 'no-such-name' }).nextItems(), [])
        } finally {
          for (const saved of [first, second]) await Sandbox.deleteSnapshot(saved.snapshotId)
        }
      })
    },
  ),

  scenario('Sandbox.delete_snapshot', 'False when there is none', async () => {
    assert.equal(await Sandbox.deleteSnapshot('no-such-snapshot'), false)
  }),
]

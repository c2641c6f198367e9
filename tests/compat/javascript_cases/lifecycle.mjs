// Create, connect, list, look at, time out, kill.

import { randomUUID } from 'node:crypto'

import { MISSING, Sandbox, allItems, assert, e2b, raised, scenario, until, withSandbox } from './kit.mjs'

const left = async (sandbox) => ((await sandbox.getInfo()).endAt - Date.now()) / 1000
const between = (low, value, high) => assert.ok(low < value && value < high, `${low} < ${value} < ${high}`)

export default [
  scenario(
    'Sandbox.create',
    'without arguments: the default template runs',
    { also: ['Sandbox.sandbox_id', 'Sandbox.sandbox_domain', 'Sandbox.commands'], domain: true },
    async () => {
      const sandbox = await Sandbox.create()
      try {
        assert.match(sandbox.sandboxId, /^[a-z0-9]+$/)
        assert.ok(sandbox.sandboxDomain)
        assert.equal((await sandbox.commands.run('echo hello')).stdout, 'hello\n')
        const info = await sandbox.getInfo()
        assert.deepEqual([info.sandboxId, info.name], [sandbox.sandboxId, 'base'])
        between(270, await left(sandbox), 305)
      } finally {
        await sandbox.kill()
      }
    },
  ),

  scenario('Sandbox.create', 'template, timeout, metadata, envs', { also: ['Sandbox.get_info'] }, async () => {
    const metadata = { run: randomUUID(), 'name with space': 'ä=&%' }
    const sandbox = await Sandbox.create('base', { timeoutMs: 77_000, metadata, envs: { COLOUR: 'blue green' } })
    try {
      const info = await sandbox.getInfo()
      assert.deepEqual(info.metadata, metadata)
      between(60, await left(sandbox), 80)
      assert.ok(info.startedAt <= new Date(Date.now() + 5000))
      assert.ok(info.cpuCount >= 1)
      assert.ok(info.memoryMB >= 128)
      assert.equal(info.state, 'running')
      assert.ok(info.envdVersion)
      assert.ok(info.templateId)
      const result = await sandbox.commands.run('echo "$COLOUR" $E2B_SANDBOX $E2B_SANDBOX_ID')
      assert.equal(result.stdout, `blue green true ${sandbox.sandboxId}\n`)
    } finally {
      await sandbox.kill()
    }
  }),

  scenario('Sandbox.create', 'secure=False is accepted; access stays secured', async () => {
    await withSandbox({ secure: false }, async (sandbox) => {
      assert.equal((await sandbox.commands.run('echo 1')).stdout, '1\n')
    })
  }),

  scenario('Sandbox.create', 'an unknown template is refused', async () => {
    const error = await raised(Sandbox.create('no-such-template-at-all'), e2b.SandboxError, '404')
    assert.match(error.message, /no-such-template-at-all/)
  }),

  scenario('Sandbox.create', 'a timeout of zero or beyond the limit is refused', async () => {
    for (const timeoutMs of [0, -5000, 1e12]) {
      await raised(Sandbox.create({ timeoutMs }), e2b.SandboxError, '400')
    }
  }),

  scenario('Sandbox.create', 'a wrong API key raises AuthenticationException', { domain: true }, async () => {
    await raised(Sandbox.create({ apiKey: 'e2b_' + '0'.repeat(40) }), e2b.AuthenticationError)
  }),

  scenario(
    'Sandbox.create',
    'mcp: refused, as there is no MCP template; nothing is left behind',
    async () => {
      const metadata = { run: randomUUID() }
      await raised(Sandbox.create({ mcp: { fetch: {} }, metadata }), e2b.SandboxError, 'mcp')
      assert.deepEqual(await allItems(Sandbox.list({ query: { metadata } })), [])
    },
  ),

  scenario('E2B', 'a client with its own key and addresses', { domain: true }, async () => {
    const { E2B_API_KEY, E2B_API_URL, E2B_SANDBOX_URL, E2B_DOMAIN } = process.env
    const options = { apiKey: E2B_API_KEY, apiUrl: E2B_API_URL, sandboxUrl: E2B_SANDBOX_URL, domain: E2B_DOMAIN }
    const client = new e2b.E2B(Object.fromEntries(Object.entries(options).filter(([, value]) => value)))
    const sandbox = await client.Sandbox.create({ timeoutMs: 60_000 })
    try {
      assert.equal((await sandbox.commands.run('echo 1')).stdout, '1\n')
    } finally {
      await sandbox.kill()
    }
  }),

  scenario('Sandbox.connect', 'static: by id, from another place', { domain: true }, async (shared) => {
    const sandbox = await shared.sandbox()
    await sandbox.files.write('/tmp/connect', 'here')
    const other = await Sandbox.connect(sandbox.sandboxId)
    assert.equal(other.sandboxId, sandbox.sandboxId)
    assert.equal(await other.files.read('/tmp/connect'), 'here')
  }),

  scenario('Sandbox.connect', "a running sandbox's timeout is extended and never shortened", async () => {
    await withSandbox({ timeoutMs: 100_000 }, async (sandbox) => {
      const before = (await sandbox.getInfo()).endAt
      await sandbox.connect({ timeoutMs: 30_000 })
      assert.deepEqual((await sandbox.getInfo()).endAt, before)
      await sandbox.connect({ timeoutMs: 500_000 })
      between(390, ((await sandbox.getInfo()).endAt - before) / 1000, 410)
    })
  }),

  scenario('Sandbox.connect', 'a killed or unknown sandbox is not found', async () => {
    await withSandbox({}, async (sandbox) => {
      await sandbox.kill()
      for (const id of [sandbox.sandboxId, MISSING]) {
        await raised(Sandbox.connect(id), e2b.SandboxNotFoundError)
      }
      await raised(sandbox.connect(), e2b.SandboxNotFoundError)
    })
  }),

  scenario(
    'Sandbox.list',
    'pages, order, metadata with every character, state, template, started_after',
    { also: ['SandboxPaginator.next_items', 'SandboxPaginator.has_next', 'SandboxPaginator.next_token'] },
    async () => {
      const metadata = { run: randomUUID(), 'a b/c': 'c&d=ü%20+' }
      const began = Date.now()
      await withSandbox({ metadata }, (first) =>
        withSandbox({ metadata }, (second) =>
          withSandbox({ metadata: { ...metadata, third: '1' } }, async (third) => {
            const made = [first, second, third].map((sandbox) => sandbox.sandboxId)
            const paginator = Sandbox.list({ query: { metadata }, limit: 2 })
            assert.ok(paginator.hasNext)
            const page = await paginator.nextItems()
            assert.deepEqual(
              page.map((info) => info.sandboxId),
              [made[2], made[1]],
            )
            assert.deepEqual(page[0].metadata, { ...metadata, third: '1' })
            assert.ok(paginator.hasNext && paginator.nextToken)
            const rest = await paginator.nextItems()
            assert.deepEqual(
              rest.map((info) => info.sandboxId),
              [made[0]],
            )
            assert.ok(!paginator.hasNext)
            const ascending = await allItems(Sandbox.list({ query: { metadata }, limit: 1, order: 'asc' }))
            assert.deepEqual(
              ascending.map((info) => info.sandboxId),
              made,
            )
            await second.pause()
            const by = async (query) =>
              (await Sandbox.list({ query: { metadata, ...query } }).nextItems()).map((info) => info.sandboxId).sort()
            const all = [...made].sort()
            assert.deepEqual(await by({ state: ['paused'] }), [made[1]])
            assert.deepEqual(await by({ state: ['running'] }), [made[0], made[2]].sort())
            assert.deepEqual(await by({ state: ['running', 'paused'] }), all)
            assert.deepEqual(await by({}), all)
            assert.deepEqual(await by({ template: 'base' }), all)
            assert.deepEqual(await by({ template: 'no-such-template' }), [])
            assert.deepEqual(await by({ startedAfter: new Date(began - 30_000) }), all)
            assert.deepEqual(await by({ startedAfter: new Date(began + 3_600_000) }), [])
          }),
        ),
      )
    },
  ),

  scenario('Sandbox.list', 'a wrong cursor is refused', async () => {
    await raised(Sandbox.list({ nextToken: '%%%' }).nextItems(), e2b.SandboxError, '400')
  }),

  scenario(
    'Sandbox.get_info',
    'static; an unknown sandbox is not found',
    { also: ['Sandbox.get_full_info'] },
    async (shared) => {
      const { sandboxId } = await shared.sandbox()
      assert.equal((await Sandbox.getInfo(sandboxId)).sandboxId, sandboxId)
      assert.equal((await Sandbox.getFullInfo(sandboxId)).sandboxId, sandboxId)
      await raised(Sandbox.getInfo(MISSING), e2b.SandboxNotFoundError)
    },
  ),

  scenario('Sandbox.is_running', 'true while it runs, false at once after the kill', { domain: true }, async () => {
    await withSandbox({}, async (sandbox) => {
      assert.equal(await sandbox.isRunning(), true)
      await sandbox.kill()
      assert.equal(await sandbox.isRunning(), false)
    })
  }),

  scenario('Sandbox.set_timeout', 'longer, shorter, static; an unknown sandbox is not found', async () => {
    await withSandbox({ timeoutMs: 300_000 }, async (sandbox) => {
      await sandbox.setTimeout(1_000_000)
      between(980, await left(sandbox), 1001)
      await Sandbox.setTimeout(sandbox.sandboxId, 50_000)
      between(30, await left(sandbox), 51)
    })
    await raised(Sandbox.setTimeout(MISSING, 50_000), e2b.SandboxNotFoundError)
  }),

  scenario('Sandbox.set_timeout', 'the sandbox ends on time', async () => {
    await withSandbox({}, async (sandbox) => {
      const began = performance.now()
      await sandbox.setTimeout(3000)
      await until(async () => !(await sandbox.isRunning()), 10)
      between(2400, performance.now() - began, 5000)
      await raised(sandbox.getInfo(), e2b.SandboxNotFoundError)
    })
  }),

  scenario('Sandbox.kill', 'instance and static; False when it is gone', { domain: true }, async () => {
    await withSandbox({}, async (sandbox) => {
      assert.equal(await sandbox.kill(), true)
      assert.equal(await sandbox.kill(), false)
    })
    await withSandbox({}, async ({ sandboxId }) => {
      assert.equal(await Sandbox.kill(sandboxId), true)
      assert.equal(await Sandbox.kill(sandboxId), false)
    })
    assert.equal(await Sandbox.kill(MISSING), false)
  }),

  scenario('Sandbox.kill', 'calls on a killed sandbox say that it is gone', { domain: true }, async () => {
    await withSandbox({}, async (sandbox) => {
      await sandbox.kill()
      // The SDK's own words for an "unavailable" before the first message of a stream.
      await raised(sandbox.commands.run('true'), e2b.SandboxNotFoundError, 'probably not running anymore')
      await raised(sandbox.files.read('/etc/hostname'), e2b.TimeoutError, 'The sandbox was not found')
    })
  }),
]

// Traffic to the sandbox's ports, and out of it.

import { once } from 'node:events'

import {
  MISSING,
  Sandbox,
  assert,
  e2b,
  get,
  outside,
  portUrl,
  raised,
  request,
  scenario,
  serve,
  until,
  withSandbox,
} from './kit.mjs'

async function reachesOutside(sandbox) {
  const { host, port } = outside()
  const line = `timeout 3 bash -c 'cat </dev/tcp/${host}/${port}' 2>/dev/null || true`
  return (await sandbox.commands.run(line)).stdout === 'outside'
}

async function seenHeaders(sandbox, port, headers) {
  const { headers: seen } = JSON.parse((await get(sandbox, port, '/', headers)).body)
  return Object.fromEntries(Object.entries(seen).map(([name, value]) => [name.toLowerCase(), value]))
}

export default [
  scenario('Sandbox.get_host', "a user's port answers", { domain: true }, async (shared) => {
    const sandbox = await shared.serving()
    assert.ok(sandbox.getHost(8080).startsWith(`8080-${sandbox.sandboxId}.${sandbox.sandboxDomain}`))
    const answer = await get(sandbox, 8080, '/some/path?query=1')
    assert.equal(answer.status, 200)
    assert.equal(JSON.parse(answer.body).path, '/some/path?query=1')
  }),

  scenario(
    'Sandbox.get_host',
    'a server that listens on 127.0.0.1 alone answers',
    { domain: true },
    async (shared) => {
      assert.equal((await get(await shared.serving(), 8081)).status, 200)
    },
  ),

  scenario('Sandbox.get_host', 'a WebSocket', { domain: true }, async (shared) => {
    const [url, headers] = portUrl(await shared.serving(), 8080, '/socket')
    const { status, socket, head } = await request(url, {
      headers: {
        ...headers,
        Connection: 'Upgrade',
        Upgrade: 'websocket',
        'Sec-WebSocket-Version': '13',
        'Sec-WebSocket-Key': 'A'.repeat(22) + '==',
      },
    })
    assert.equal(status, 101)
    const text = Buffer.from('hello ä')
    socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), text]))
    let frame = head
    while (frame.length < 2 + text.length) frame = Buffer.concat([frame, ...(await once(socket, 'data'))])
    assert.equal(frame.subarray(2).toString(), 'hello ä')
    socket.destroy()
  }),

  scenario(
    'Sandbox.get_host',
    "a closed port: 502 with the sandbox's id and the port",
    { domain: true },
    async (shared) => {
      const sandbox = await shared.sandbox()
      const answer = await get(sandbox, 9999)
      assert.equal(answer.status, 502)
      const message = 'The sandbox is running but port is not open'
      assert.deepEqual(JSON.parse(answer.body), { sandboxId: sandbox.sandboxId, message, port: 9999, code: 502 })
    },
  ),

  scenario('Sandbox.get_host', "a killed sandbox: 502 with the sandbox's id", { domain: true }, async () => {
    await withSandbox({}, async (sandbox) => {
      await sandbox.kill()
      const answer = await get(sandbox, 8080)
      assert.equal(answer.status, 502)
      const message = 'The sandbox was not found'
      assert.deepEqual(JSON.parse(answer.body), { sandboxId: sandbox.sandboxId, message, code: 502 })
    })
  }),

  scenario(
    'Sandbox.get_host',
    "the server sees the public name, and none of the platform's credentials",
    { domain: true },
    async (shared) => {
      const sandbox = await shared.serving()
      const seen = await seenHeaders(sandbox, 8080, { 'X-Mine': '1', 'X-API-KEY': 'e2b_' + '0'.repeat(40) })
      assert.equal(seen['x-mine'], '1')
      const [url, routing] = portUrl(sandbox, 8080)
      if (!Object.keys(routing).length) assert.equal(seen.host, new URL(url).host)
      assert.ok(!('x-access-token' in seen) && !('e2b-traffic-access-token' in seen))
    },
  ),

  scenario(
    'Sandbox.traffic_access_token',
    'allow_public_traffic=False: 403 without the token, answers with it; envd needs none',
    { domain: true },
    async () => {
      await withSandbox({ network: { allowPublicTraffic: false } }, async (sandbox) => {
        const token = sandbox.trafficAccessToken
        assert.ok(token)
        await serve(sandbox, '0.0.0.0:8080')
        for (const given of [{}, { 'e2b-traffic-access-token': 'wrong' }]) {
          const answer = await get(sandbox, 8080, '/', given)
          assert.equal(answer.status, 403)
          assert.equal(JSON.parse(answer.body).sandboxId, sandbox.sandboxId)
        }
        const seen = await seenHeaders(sandbox, 8080, { 'e2b-traffic-access-token': token })
        assert.ok(!('e2b-traffic-access-token' in seen))
        assert.equal((await Sandbox.connect(sandbox.sandboxId)).trafficAccessToken, token)
      })
    },
  ),

  scenario('Sandbox.traffic_access_token', 'None for a public sandbox', async (shared) => {
    assert.ok(!(await shared.sandbox()).trafficAccessToken)
  }),

  scenario(
    'Sandbox.create',
    'network: mask_request_host is what the server sees',
    { domain: true },
    async () => {
      await withSandbox({ network: { maskRequestHost: 'my-host:${PORT}' } }, async (sandbox) => {
        await serve(sandbox, '0.0.0.0:8080')
        assert.equal((await seenHeaders(sandbox, 8080)).host, 'my-host:8080')
      })
    },
  ),

  scenario(
    'Sandbox.create',
    'allow_internet_access: on by default, False shuts everything',
    async (shared) => {
      assert.ok(await reachesOutside(await shared.sandbox()))
      await withSandbox({ allowInternetAccess: false }, async (sandbox) => {
        assert.ok(!(await reachesOutside(sandbox)))
        assert.equal((await sandbox.getInfo()).allowInternetAccess, false)
      })
    },
  ),

  scenario('Sandbox.create', 'network: deny_out shuts, allow_out wins over it; get_info tells', async () => {
    const { host } = outside()
    const network = { denyOut: [e2b.ALL_TRAFFIC], allowOut: [host] }
    await withSandbox({ network }, async (sandbox) => {
      assert.ok(await reachesOutside(sandbox))
      const told = (await sandbox.getInfo()).network
      assert.deepEqual([told.denyOut, told.allowOut], [['0.0.0.0/0'], [host]])
    })
    await withSandbox({ network: { denyOut: [`${host}/32`] } }, async (sandbox) => {
      assert.ok(!(await reachesOutside(sandbox)))
    })
  }),

  scenario('Sandbox.create', 'network: selectors as functions', async () => {
    await withSandbox({ network: { denyOut: ({ allTraffic }) => [allTraffic] } }, async (sandbox) => {
      assert.ok(!(await reachesOutside(sandbox)))
    })
  }),

  scenario('Sandbox.create', 'network: allowed domains shut everything else; get_info tells', async () => {
    const network = { denyOut: [e2b.ALL_TRAFFIC], allowOut: ['allowed.test'] }
    await withSandbox({ network }, async (sandbox) => {
      assert.ok(!(await reachesOutside(sandbox)))
      assert.deepEqual((await sandbox.getInfo()).network.allowOut, ['allowed.test'])
    })
  }),

  scenario(
    'Sandbox.create',
    'network: a domain without deny of everything, an address that is none: refused',
    async () => {
      for (const network of [{ allowOut: ['example.com'] }, { denyOut: ['not an address'] }]) {
        await raised(Sandbox.create({ network }), e2b.SandboxError, '400')
      }
    },
  ),

  scenario(
    'Sandbox.update_network',
    'while it runs, instance and static; replaces all; an unknown sandbox is not found',
    async () => {
      const { host } = outside()
      await withSandbox({}, async (sandbox) => {
        assert.ok(await reachesOutside(sandbox))
        await sandbox.updateNetwork({ denyOut: [e2b.ALL_TRAFFIC] })
        assert.ok(!(await reachesOutside(sandbox)))
        await Sandbox.updateNetwork(sandbox.sandboxId, { denyOut: [e2b.ALL_TRAFFIC], allowOut: [host] })
        assert.ok(await reachesOutside(sandbox))
        await sandbox.updateNetwork({ allowInternetAccess: false })
        assert.ok(!(await reachesOutside(sandbox)))
        await sandbox.updateNetwork({})
        assert.ok(await reachesOutside(sandbox))
        await raised(sandbox.updateNetwork({ allowOut: ['example.com'] }), e2b.SandboxError, '400')
      })
      await raised(Sandbox.updateNetwork(MISSING, {}), e2b.SandboxNotFoundError)
    },
  ),

  scenario('Sandbox.get_mcp_url', "the address of the gateway's port", async (shared) => {
    const sandbox = await shared.sandbox()
    assert.ok(sandbox.getMcpUrl().endsWith(`${sandbox.getHost(50005)}/mcp`))
  }),

  scenario('Sandbox.get_mcp_token', "read from the gateway's file", async (shared) => {
    const sandbox = await shared.sandbox()
    await sandbox.files.write('/etc/mcp-gateway/.token', 'the-token', { user: 'root' })
    assert.equal(await sandbox.getMcpToken(), 'the-token')
  }),

  scenario(
    'Sandbox.get_metrics',
    'a first sample within 30 s, instance and static; nothing before the start',
    { seconds: 90 },
    async (shared) => {
      const sandbox = await shared.sandbox()
      const samples = await until(async () => {
        const found = await sandbox.getMetrics()
        return found.length ? found : undefined
      }, 30)
      const sample = samples.at(-1)
      assert.ok(sample.cpuCount >= 1 && sample.cpuUsedPct >= 0)
      assert.ok(0 < sample.memUsed && sample.memUsed < sample.memTotal)
      assert.ok(0 < sample.diskUsed && sample.diskUsed < sample.diskTotal)
      const { startedAt } = await sandbox.getInfo()
      assert.ok(sample.timestamp >= startedAt)
      assert.ok((await Sandbox.getMetrics(sandbox.sandboxId)).length >= samples.length)
      const [start, end] = [new Date(startedAt - 7_200_000), new Date(startedAt - 3_600_000)]
      assert.deepEqual(await sandbox.getMetrics({ start, end }), [])
    },
  ),
]

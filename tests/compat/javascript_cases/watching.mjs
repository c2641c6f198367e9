// Events of directories.

import { Sandbox, assert, e2b, raised, scenario, sleep, until, withSandbox } from './kit.mjs'

async function watch(sandbox, path, options = {}) {
  const events = []
  const ended = []
  const handle = await sandbox.files.watchDir(path, (event) => void events.push(event), {
    onExit: (error) => void ended.push(error),
    ...options,
  })
  const seen = (question) => until(() => question(events) && events, 10)
  return { events, ended, seen, stop: () => handle.stop() }
}

const kinds = (events, name) => events.filter((event) => event.name === name).map((event) => event.type)

export default [
  scenario(
    'files.watch_dir',
    'a new file gives exactly CREATE, CHMOD, WRITE',
    { also: ['WatchHandle.stop'], domain: true },
    async (shared) => {
      const sandbox = await shared.sandbox()
      await sandbox.files.makeDir('/tmp/watch-new')
      const watched = await watch(sandbox, '/tmp/watch-new')
      await sandbox.files.write('/tmp/watch-new/a', 'text')
      const events = await watched.seen((events) => events.length >= 3)
      assert.deepEqual(
        events.map((event) => [event.name, event.type]),
        [
          ['a', 'create'],
          ['a', 'chmod'],
          ['a', 'write'],
        ],
      )
      assert.ok(!events[0].entry)
      await watched.stop()
    },
  ),

  scenario(
    'files.watch_dir',
    'exactly what a write, chmod, rename and remove give, in their order',
    async (shared) => {
      const sandbox = await shared.sandbox()
      await sandbox.files.write('/tmp/watch-kinds/a', 'text')
      const watched = await watch(sandbox, '/tmp/watch-kinds')
      await sandbox.commands.run('cd /tmp/watch-kinds; echo x >>a; chmod 600 a; mv a b; rm b')
      const events = await watched.seen((events) => kinds(events, 'b').includes('remove'))
      assert.deepEqual(
        events.map((event) => [event.name, event.type]),
        [
          ['a', 'write'],
          ['a', 'chmod'],
          ['a', 'rename'],
          ['b', 'create'],
          ['b', 'remove'],
        ],
      )
      await watched.stop()
    },
  ),

  scenario(
    'files.watch_dir',
    'recursive: new directories are watched too; without it they are not',
    { domain: true },
    async (shared) => {
      const sandbox = await shared.sandbox()
      await sandbox.files.makeDir('/tmp/watch-deep/there')
      const watched = await watch(sandbox, '/tmp/watch-deep', { recursive: true })
      const flat = await watch(sandbox, '/tmp/watch-deep')
      await sandbox.files.write('/tmp/watch-deep/there/a', 'text')
      await sandbox.files.makeDir('/tmp/watch-deep/new')
      await sandbox.files.write('/tmp/watch-deep/new/b', 'text')
      await watched.seen(
        (events) => kinds(events, 'there/a').length && kinds(events, 'new/b').includes('write'),
      )
      const seen = await flat.seen((events) => kinds(events, 'new').length)
      assert.equal(kinds(seen, 'there/a').length, 0)
      await watched.stop()
      await flat.stop()
    },
  ),

  scenario('files.watch_dir', "include_entry: the file's data beside the event", async (shared) => {
    const sandbox = await shared.sandbox()
    await sandbox.files.makeDir('/tmp/watch-entry')
    const watched = await watch(sandbox, '/tmp/watch-entry', { includeEntry: true })
    await sandbox.files.write('/tmp/watch-entry/a', 'text')
    const events = await watched.seen((events) => kinds(events, 'a').includes('write'))
    const { entry } = events.find((event) => event.type === 'write')
    assert.deepEqual([entry.name, entry.path, entry.type], ['a', '/tmp/watch-entry/a', e2b.FileType.FILE])
    await watched.stop()
  }),

  scenario(
    'files.watch_dir',
    'missing, not a directory; allow_network_mounts is accepted',
    async (shared) => {
      const sandbox = await shared.sandbox()
      await raised(watch(sandbox, '/no/such/directory'), e2b.NotFoundError)
      await raised(watch(sandbox, '/etc/passwd'), e2b.InvalidArgumentError)
      await (await watch(sandbox, '/tmp', { allowNetworkMounts: true })).stop()
    },
  ),

  scenario('WatchHandle.stop', 'no events afterwards; on_exit is called once', async (shared) => {
    const sandbox = await shared.sandbox()
    await sandbox.files.makeDir('/tmp/watch-stop')
    const watched = await watch(sandbox, '/tmp/watch-stop')
    await sandbox.files.makeDir('/tmp/watch-stop/before')
    await watched.seen((events) => kinds(events, 'before').length)
    await watched.stop()
    await sandbox.files.makeDir('/tmp/watch-stop/after')
    await until(() => watched.ended.length, 10)
    await sleep(500)
    // It stops by aborting its own request, and tells that.
    assert.equal(watched.ended.length, 1)
    assert.match(String(watched.ended[0]), /\[canceled\]/)
    assert.equal(kinds(watched.events, 'after').length, 0)
  }),

  scenario('files.watch_dir', 'on_exit gets the error when the sandbox is killed', { domain: true }, async () => {
    await withSandbox({}, async (sandbox) => {
      const watched = await watch(sandbox, '/tmp', { timeoutMs: 0 })
      await Sandbox.kill(sandbox.sandboxId)
      await until(() => watched.ended.length, 10)
      assert.ok(watched.ended[0] instanceof e2b.SandboxError, String(watched.ended[0]))
    })
  }),
]
